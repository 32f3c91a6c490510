"""What looks at training pictures sees those that lie in tars as it sees copied ones: leakage, and probes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from inplacekit import both, jpeg
from picturekit import encoded, photo

from limoe.data.prepared import Prepared
from limoe.errors import UserError
from limoe.evals.leakage import Hasher, TrainingPictures
from limoe.evals.pictures import PreparedPictures
from limoe.evals.sets import COLUMNS, EvalSet
from limoe.evals.shots import with_training


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, Prepared]:
    """Copied and in place; the validation pictures repeat training pictures, nearly, and 47 does byte for byte."""

    def picture(number: int) -> bytes:
        if number in (6, 7, 47):
            return jpeg(7)
        return encoded(photo(number - 7, 80, 60)) if number % 10 == 7 else jpeg(number)

    return both(tmp_path_factory.mktemp("evals"), picture=picture)


def test_leakage_is_that_of_the_copied_set(pair: tuple[Prepared, Prepared], tmp_path: Path) -> None:
    found = []
    for number, prepared in enumerate(pair):
        hasher = Hasher(tmp_path / str(number), lambda steps, what, count: steps)
        found.append(TrainingPictures(prepared, hasher).leakage(EvalSet.of("val", prepared.table("val", COLUMNS))))
    assert found[0] == found[1]
    seen = {int(one.key[-5:]): (int(one.training[-5:]), one.exact) for one in found[1].seen}
    assert seen == {7: (6, True), 17: (10, False), 27: (20, False), 37: (30, False), 47: (6, True), 57: (50, False)}


def test_a_probe_learns_from_the_same_pictures(pair: tuple[Prepared, Prepared]) -> None:
    """Of the labels, which every fourth sample has: a set of theirs with all training pictures that share them."""
    trained = []
    for prepared in pair:
        table = prepared.table("train", COLUMNS)
        labelled = table.filter(table["label"].is_valid())
        trained.append(with_training(EvalSet.of("val", labelled), prepared).train)
    assert trained[0].keys == trained[1].keys
    count = len(trained[0])
    assert count > 5
    assert trained[1].images.read(0, count) == trained[0].images.read(0, count)
    assert trained[1].digests == trained[0].digests


def test_pictures_of_a_split_are_read_wherever_they_lie(pair: tuple[Prepared, Prepared]) -> None:
    wanted = pair[0].table("train", ["image"])["image"].to_pylist()
    for prepared in pair:
        pictures = PreparedPictures(prepared, "train")
        assert (len(pictures), pictures.read(0, 100)) == (48, wanted)
        assert pictures.read(40, 3) == wanted[40:43]
        assert pictures.read(47, 9) == wanted[47:]
    with pytest.raises(UserError, match="no split 'gone'"):
        PreparedPictures(prepared, "gone")


def test_a_tar_that_is_gone_is_named_when_its_pictures_are_asked_for(pair: tuple[Prepared, Prepared], tmp_path: Path) -> None:
    root = pair[1].root.parents[1]
    moved = Prepared(shutil.copytree(root, tmp_path / "project") / "data" / "prepared")
    (tmp_path / "project" / "data" / "raw" / "photos" / "00001.tar").unlink()
    with pytest.raises(UserError, match=r"00001\.tar: cannot be read .* run `limoe prepare` again"):
        PreparedPictures(moved, "train").read(0, 48)
    assert moved.table("val", COLUMNS).equals(pair[0].table("val", COLUMNS))
