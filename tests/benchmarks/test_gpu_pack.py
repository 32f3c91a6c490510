"""What is packed for a machine with a GPU: small pictures without test sets, wheels as pinned, no more bytes than may travel."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from pathlib import Path

import pytest
from PIL import Image
from preparekit import ListedSource, candidate, params_with, picture

from benchmarks import gpu_pack
from benchmarks.gpu_pack import KEPT, MISSING, PACK, Small, bytes_that_travel, check_size, pack_data, pack_wheels, shrunk
from limoe.data.prepared import Prepared
from limoe.data.schema import TEST_SPLITS
from limoe.data.sources import Rejected, candidates
from limoe.errors import UserError

TINY = (
    "prepare.emoji.limit=30",
    "prepare.scenes.train=6",
    "prepare.scenes.val=3",
    "prepare.scenes.test=3",
    "prepare.tokenizer.vocab_size=200",
)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """100 bytes tracked, 20 new, 3,000 ignored, of which 1,000 are packed in two folders; and the list of what is ignored."""
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    sizes = {"tracked": 100, "new": 20, ".limoe/gpu/a": 400, ".limoe/gpu/deep/b": 600, ".limoe/bench/c": 2000}
    for name, size in sizes.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * size)
    (tmp_path / ".gitignore").write_text(".limoe/\n")
    subprocess.run(["git", "add", "tracked", ".gitignore"], cwd=tmp_path, check=True)
    return tmp_path


def test_what_travels_is_what_git_sees_and_the_pack(repository: Path) -> None:
    assert bytes_that_travel(repository, repository / PACK) == 100 + 20 + 8 + 400 + 600
    (repository / ".gitignore").write_text("")  # a pack that git sees is counted once
    assert bytes_that_travel(repository, repository / PACK) == 100 + 20 + 400 + 600 + 2000


def test_a_link_counts_as_a_link(repository: Path) -> None:
    (repository / "link").symlink_to("tracked")
    assert bytes_that_travel(repository, repository / PACK) == 100 + 20 + 8 + 400 + 600 + len("tracked")


def test_more_than_may_travel_is_refused(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_pack, "LIMIT_BYTES", 1128)
    assert check_size(repository, repository / PACK) == 1128
    (repository / "new").write_bytes(b"x" * 21)
    with pytest.raises(UserError, match="pack less"):
        check_size(repository, repository / PACK)


@pytest.mark.parametrize("size,wanted", [((300, 200), (192, 128)), ((128, 500), (128, 500)), ((20, 40), (20, 40))])
def test_pictures_become_small_and_never_larger(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    found = Image.open(io.BytesIO(shrunk(picture(0, *size))))
    assert (found.format, found.size) == ("WEBP", wanted)


def test_a_source_loses_its_other_splits_and_keeps_what_was_rejected() -> None:
    rejected = Rejected("r", "listed", "broken")
    listed = ListedSource([candidate("a"), rejected, candidate("b", split="test"), candidate("c", split="val")])
    small = Small(listed, ("train", "val"))
    assert [found.key for found in candidates(small)] == ["a", "r", "c"]
    assert small.total == 4
    assert small.provenance() == {"listed": 4, "side": 128, "quality": 80}
    assert small.packages(params_with().prepare) == ()


def shard(path: Path, names: list[str]) -> None:
    """A WebDataset shard of pictures with two captions each."""
    with tarfile.open(path, "w") as archive:
        for number, name in enumerate(names):
            captions = json.dumps({"captions": [f"photo {name}", f"{name} again"]}).encode()
            for ending, content in (("jpg", picture(number, 200, 150, "JPEG")), ("json", captions)):
                member = tarfile.TarInfo(f"{name}.{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def test_a_pack_holds_three_sources_and_no_test_set(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    for folder in (photos, out):
        folder.mkdir()
    shard(photos / "train-00000.tar", ["one", "two"])
    shard(photos / "val-00000.tar", ["three", "four"])
    shard(photos / "test-00000.tar", ["five"])
    pack_data(out, photos, TINY)
    prepared = Prepared(out)
    assert set(prepared.sources("train")) == set(KEPT)
    assert (prepared.sources("train")["photos"], prepared.sources("val")) == (2, {"photos": 2})
    assert set(prepared.splits).isdisjoint(TEST_SPLITS)
    for split in prepared.splits:
        for row in prepared.table(split, ["source", "image", "width", "height"]).to_pylist():
            assert split in KEPT[row["source"]]
            found = Image.open(io.BytesIO(row["image"]))
            assert (found.format, found.size) == ("WEBP", (row["width"], row["height"]))
            assert min(found.size) <= 128
    captions = {tuple(row["captions"]) for row in prepared.table("val", ["captions"]).to_pylist()}
    assert captions == {("photo three", "three again"), ("photo four", "four again")}


def test_photos_that_are_not_there_are_left_out(tmp_path: Path) -> None:
    pack_data(tmp_path, tmp_path / "absent", TINY)
    assert set(Prepared(tmp_path).sources("train")) == {"emoji", "scenes"}


def test_wheels_are_those_that_the_project_pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project: Path) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(gpu_pack.subprocess, "run", lambda command, check: commands.append(command))
    pack_wheels(tmp_path, "3.12")
    ((*_, dest, out), wanted) = commands[0][: -len(MISSING)], commands[0][-len(MISSING) :]
    assert (dest, out) == ("--dest", str(tmp_path))
    assert "--python-version=3.12" in commands[0]
    pins = {line.replace("_", "-").lower() for line in (project / "constraints.txt").read_text().splitlines()}
    assert set(wanted) <= pins
    assert [name.split("==")[0] for name in wanted] == list(MISSING)


def test_the_script_looks_where_the_pack_is(project: Path) -> None:
    assert f"pack=${{PACK:-{PACK}}}\n" in (project / "benchmarks" / "gpu.sh").read_text()
