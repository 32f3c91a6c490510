"""A set that is trained from in place is the copied set in all but where its training pictures lie."""

from __future__ import annotations

import gzip
import io
import itertools
import shutil
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from inplacekit import both, jpeg, members, photos, prepared, training_keys
from layoutkit import tar
from picturekit import encoded, photo
from preparekit import params_with, picture

from limoe.config import MachineParams, SetParams, TowerParams, TrainParams
from limoe.data import shards
from limoe.data.loader import PairLoader
from limoe.data.prepared import Prepared
from limoe.data.schema import TRAIN
from limoe.data.shards import RowWriter
from limoe.data.sources import open_set
from limoe.errors import UserError
from limoe.model.tokens import PairBatch
from limoe.paramsfile import read_yaml
from limoe.world import ALONE, World

DEFAULTS = read_yaml(Path(__file__).parents[2] / "params.yaml")
PLACES = ("image", "tar", "offset", "length")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, Prepared]:
    """Sixty photos of three tars, copied and in place; several shards, of several row groups each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "BUFFER_ROWS", 5)
        return both(tmp_path_factory.mktemp("inplace"), "prepare.shard_rows=17")


def opened(found: Prepared, workers: int = 0, world: World = ALONE) -> PairLoader:
    """With every augmentation on, and windows of two row groups."""
    changes = {"batch": 8, "mixture": {"photos": 1}, "flip": True, "color_jitter": 0.1, "shuffle_rows": 10}
    tower = TowerParams.model_validate(DEFAULTS["model"]["tower"] | {"image_size": 16, "patch_size": 8, "text_length": 6})
    machine = MachineParams.model_validate(DEFAULTS["machine"] | {"workers": workers, "cache_mb": 1})
    return PairLoader(found, tower, TrainParams.model_validate(DEFAULTS["train"] | changes), machine, world=world)


def take(loader: PairLoader, batches: int) -> list[PairBatch]:
    return [raw.finished() for raw in itertools.islice(loader, batches)]


def assert_equal(ours: list[PairBatch], theirs: list[PairBatch]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys == b.keys
        for name in ("images_BCHW", "ids_N", "lengths_B"):
            assert torch.equal(getattr(a, name), getattr(b, name))


def test_batches_are_bit_equal_over_epochs_and_from_the_middle_of_one(pair: tuple[Prepared, Prepared]) -> None:
    copied, staying = pair
    assert copied.rows(TRAIN) == 48
    with closing(opened(copied)) as ours, closing(opened(staying, workers=2)) as theirs:
        wanted = take(ours, 15)
        assert_equal(take(theirs, 8), wanted[:8])
        state = theirs.state_dict()
    assert len({key for batch in wanted for key in batch.keys}) == 48
    with closing(opened(staying)) as again:
        again.load_state_dict(state)
        assert_equal(take(again, 7), wanted[8:])
    with closing(opened(staying, world=World(1, 2))) as rank:
        assert_equal(take(rank, 2), [batch.split(4)[1] for batch in wanted[:2]])


def test_rows_are_the_copied_ones_but_for_their_pictures_and_in_equal_row_groups(pair: tuple[Prepared, Prepared]) -> None:
    copied, staying = pair
    for split in ("test", TRAIN, "val"):
        a, b = copied.table(split).to_pylist(), staying.table(split).to_pylist()
        assert [{name: value for name, value in row.items() if name not in PLACES[1:]} for row in b] == [
            {name: value for name, value in row.items() if name not in PLACES[1:]} for row in a
        ]
        assert copied.row_groups(split) == staying.row_groups(split)
        assert all((row["tar"] is None) == (split != TRAIN) for row in b)
        assert all(row[name] is None for row in a for name in PLACES[1:])
    for shard in staying.shards(TRAIN):
        assert pq.read_table(shard, columns=["image"])["image"].null_count == pq.read_metadata(shard).num_rows
    assert copied.manifest["leakage"] == staying.manifest["leakage"]
    content = [{k: v for k, v in found.manifest["sources"]["photos"].items() if k != "tars"} for found in pair]
    assert content[0] == content[1]
    assert staying.manifest["sources"]["photos"]["tars"] == "data/raw/photos"


def test_a_source_of_a_mixed_row_group_is_read_without_the_tars_of_another(tmp_path: Path) -> None:
    photos(tmp_path / "data" / "raw" / "photos", tars=1)
    tar(tmp_path / "data" / "raw" / "mine", {"a": {"png": picture(1), "json": b'{"caption": "x", "split": "train"}'}}, name="0")
    sets = "prepare.sets={photos: {path: data/raw/photos, in_place: true}, mine: {path: data/raw/mine}}"
    found = prepared(tmp_path, True, sets, "prepare.sources=[mine, photos]")
    (place,) = found.row_groups(TRAIN)
    assert place.sources == {"mine": 1, "photos": 16}
    wanted = [content for name, content in members(tmp_path / "data/raw/photos/00000.tar").items() if name.endswith("jpg")]
    images = found.read_group(place, ["image", "key"])
    assert images.column_names == ["image", "key"]
    assert images["image"].to_pylist() == [picture(1), *(image for n, image in enumerate(wanted) if n % 10 not in (7, 8))]
    shutil.rmtree(tmp_path / "data" / "raw" / "photos")
    assert found.read_group(place, ["image"], "mine")["image"].to_pylist() == [picture(1)]
    with pytest.raises(UserError, match="holds the picture of photos/00000/sub/00000"):
        found.read_group(place, ["image"], "photos")
    assert len(found.read_group(place, ["key"])) == 17


def test_no_training_picture_is_written_at_any_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the set nor in what lies in .limoe/work until it is done; those that are held out are in both."""
    held = {}

    def kept(*_: object, **__: object) -> None:
        held.update({path: path.read_bytes() for path in (tmp_path / ".limoe").rglob("*") if path.is_file()})

    folder = photos(tmp_path / "data" / "raw" / "photos")
    monkeypatch.setattr("limoe.stages.prepare.print_summary", kept)
    prepared(tmp_path, True, "prepare.duplicates={drop: leaked, radius: 6, against: []}")
    written = b"".join(path.read_bytes() for path in (tmp_path / "data" / "prepared").iterdir())
    assert len({path.name for path in held} & {"records.parquet", "train-00000.parquet"}) == 2
    for path in folder.iterdir():
        for name, content in members(path).items():
            if name.endswith(".jpg"):
                held_out = int(name[4:9]) % 10 in (7, 8)
                assert (content[-300:-100] in written) == held_out
                assert any(content[-300:-100] in one for one in held.values()) == held_out


def test_a_row_group_ends_where_the_pictures_it_will_hold_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "BUFFER_BYTES", 1000)
    for own in ({"image": bytes(300)}, {"image": None, "length": 300}):
        rows = [own | {"captions": ["x" * 40]}] * 7
        schema = shards.SCHEMA.remove_metadata()
        whole = [{field.name: "" if str(field.type) == "string" else 0 for field in schema} | row for row in rows]
        with RowWriter(tmp_path / "rows.parquet", schema) as writer:
            for row in whole:
                writer.add(row)
        metadata = pq.read_metadata(tmp_path / "rows.parquet")
        assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [3, 3, 1]


@pytest.mark.parametrize(
    "base", ["memory://sets/photos", "memory://sets/photos/*.tar", "memory://sets/photos/{00000..00002}.tar"]
)
def test_a_set_elsewhere_is_trained_from_there(pair: tuple[Prepared, Prepared], tmp_path: Path, base: str) -> None:
    import fsspec

    for path in photos(tmp_path / "tars").iterdir():
        fsspec.filesystem("memory").pipe(f"/sets/photos/{path.name}", path.read_bytes())
    found = prepared(tmp_path, True, path=base)
    assert found.manifest["sources"]["photos"]["tars"] == "memory://sets/photos"
    assert found.table(TRAIN, ["key", "image"]).equals(pair[0].table(TRAIN, ["key", "image"]))


def test_a_project_may_move_and_its_prepared_folder_be_a_link(pair: tuple[Prepared, Prepared], tmp_path: Path) -> None:
    for path in ("data/raw/photos/*.tar", "data/raw/photos/{00000..00002}.tar", "data/raw/photos", "data/raw"):
        root = tmp_path / str(len(list(tmp_path.iterdir()))) / "before"
        photos(root / "data" / "raw" / "photos")
        (tmp_path / "big" / root.parent.name).mkdir(parents=True)
        (root / "data" / "prepared").symlink_to(tmp_path / "big" / root.parent.name, target_is_directory=True)
        prepared(root, True, path=path)
        moved = root.rename(root.parent / "after")
        found = Prepared(moved / "data" / "prepared")
        assert found.table(TRAIN, ["image"]).equals(pair[0].table(TRAIN, ["image"]))
        assert str(tmp_path) not in str(found.manifest)


@pytest.mark.parametrize("drop", ["none", "leaked", "all"])
def test_duplicates_are_those_of_the_copied_set(tmp_path: Path, drop: str) -> None:
    """Photos that repeat one of ten numbers before, byte for byte or as another file, within the tars and across splits."""

    def repeated(number: int) -> bytes:
        return jpeg(number % 25) if number % 2 else encoded(photo(number % 24, 80, 60), "JPEG", quality=85 - number % 3)

    for name, image in (("same", jpeg(1)), ("near", encoded(photo(2, 80, 60)))):
        (tmp_path / "own" / name).mkdir(parents=True)
        (tmp_path / "own" / name / "a.jpg").write_bytes(image)
    asked = "radius: null, against: []" if drop == "none" else "radius: 6, against: [own]"
    sets = "evaluate.sets={own: {path: ../own, kind: folder}}"
    copied, staying = both(tmp_path, f"prepare.duplicates={{drop: {drop}, {asked}}}", sets, picture=repeated)
    assert training_keys(staying) == training_keys(copied)
    told = [(found.manifest["rejected"], found.manifest["leakage"]) for found in (copied, staying)]
    assert told[0] == told[1]
    assert bool(told[0][0]) == (drop != "none")
    assert {"evaluated-picture", "near-evaluated"} <= set(told[0][0]) or drop == "none"
    rejected = [pq.read_table(found.root / "rejected.parquet") for found in (copied, staying)]
    assert rejected[0].equals(rejected[1])


def test_a_training_picture_that_has_no_place_is_rejected_and_a_held_out_one_copied(tmp_path: Path) -> None:
    """A tar that is compressed without saying so in its name."""
    folder = photos(tmp_path / "data" / "raw" / "photos", tars=2)
    (folder / "00001.tar").write_bytes(gzip.compress((folder / "00001.tar").read_bytes()))
    found = prepared(tmp_path, True)
    assert (found.rows(TRAIN), found.rows("val"), found.rows("test")) == (16, 4, 4)
    assert found.manifest["rejected"] == {"not-in-place": 16}


def refusal(make: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        make()
    return str(caught.value)


def test_what_cannot_stay_in_place_is_refused(tmp_path: Path) -> None:
    chosen = ("prepare.sources=[photos]", "train.mixture={photos: 1}")
    sets = "prepare.sets={photos: {path: x, in_place: true}}"
    for change, key, plain in (("encode=webp", "encode", "keep"), ("shortest_side=64", "shortest_side", "null")):
        said = refusal(lambda change=change: params_with(*chosen, sets, f"prepare.pictures.{change}"))  # type: ignore[misc]
        assert f"pictures.{key} encodes pictures anew, and with sets.photos.in_place" in said
        assert f"set pictures.{key} to {plain}, or in_place to false" in said
    params_with(sets, "prepare.pictures.encode=webp")  # the set is none of the sources
    said = refusal(lambda: params_with(*chosen, "prepare.sets={photos: {path: x, kind: parquet, in_place: true}}"))
    assert "in_place is of no use to the kind parquet, but to webdataset" in said
    (tmp_path / "x.csv").write_text("image,caption\na.jpg,b\n")
    said = refusal(lambda: open_set("mine", SetParams(path="x.csv", in_place=True), tmp_path))
    assert said == "in_place is for tars (webdataset), and x.csv is read as table: set it to false"
    for name in ("t.tar.gz", "t.TGZ", "t.tar.xz"):
        with tarfile.open(tmp_path / "plain.tar", "w") as archive:
            archive.addfile(tarfile.TarInfo("a"), io.BytesIO())
        (tmp_path / "plain.tar").rename(tmp_path / name)
        said = refusal(lambda name=name: open_set("mine", SetParams(path=name, in_place=True), tmp_path))  # type: ignore[misc]
        assert said.startswith(f"{name} is compressed, so that no picture can be read alone: unpack it")
