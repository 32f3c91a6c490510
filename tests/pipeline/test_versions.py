"""DVC versions a user's own pictures: two versions on a folder remote, pulled in a clone and back; nothing reruns."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from pipelinekit import Workspace

from limoe.data.prepared import Prepared

pytestmark = pytest.mark.timeout(300)
COLORS = ("red", "green", "blue", "yellow", "black", "white", "pink", "orange", "brown", "gray", "purple", "cyan")
OWN = {
    "prepare": {"sources": ["mine"], "sets": {"mine": {"path": "data/raw/mine"}}},
    "train": {"mixture": {"emoji": 0, "scenes": 0, "mine": 1}},
}


def draw(folder: Path, colors: tuple[str, ...]) -> None:
    """A picture a colour, and their captions."""
    folder.mkdir(parents=True, exist_ok=True)
    for color in colors:
        Image.new("RGB", (16, 16), color).save(folder / f"{color}.png")
    rows = [f"{color}.png,a {color} square" for color in colors]
    (folder / "captions.csv").write_text("\n".join(["image,caption", *rows]) + "\n")


def version(workspace: Workspace, colors: tuple[str, ...], tag: str) -> None:
    """Make, prepare, commit, tag and push a version of the set."""
    draw(workspace.root / "data" / "raw" / "mine", colors)
    workspace.run("dvc", "add", "-q", "data/raw/mine")
    workspace.run("dvc", "repro", "-q", "prepare")
    workspace.commit(tag)
    workspace.run("git", "tag", tag)
    workspace.run("dvc", "push", "-q", "data/raw/mine.dvc", "prepare")


def captions(workspace: Workspace) -> set[str]:
    """Every caption of the prepared set."""
    prepared = Prepared(workspace.root / "data" / "prepared")
    tables = [prepared.table(split, ["captions"]) for split in prepared.splits]
    return {caption for table in tables for row in table["captions"].to_pylist() for caption in row}


def test_two_versions_of_a_set(copy: Callable[[], Workspace], tmp_path: Path) -> None:
    workspace = copy()
    workspace.change(OWN)
    workspace.run("dvc", "remote", "add", "-q", "-d", "near", str(tmp_path / "remote"))
    version(workspace, COLORS[:8], "v1")
    version(workspace, COLORS, "v2")

    clone = Workspace(tmp_path / "clone", workspace.home)
    subprocess.run(["git", "clone", "-q", str(workspace.root), str(clone.root)], check=True)
    clone.run("dvc", "pull", "-q", "data/raw/mine.dvc", "prepare")
    assert captions(clone) == {f"a {color} square" for color in COLORS}
    assert "Running stage" not in clone.run("dvc", "repro", "prepare")

    clone.run("git", "checkout", "-q", "v1")
    clone.run("dvc", "pull", "-q", "data/raw/mine.dvc", "prepare")
    assert sorted(path.stem for path in (clone.root / "data" / "raw" / "mine").glob("*.png")) == sorted(COLORS[:8])
    assert captions(clone) == {f"a {color} square" for color in COLORS[:8]}
    assert "Running stage" not in clone.run("dvc", "repro", "prepare")
    assert "up to date" in clone.run("dvc", "status", "prepare", "data/raw/mine.dvc")
