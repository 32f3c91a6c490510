"""Preparation of a set in place, killed anywhere or shared among processes, comes to the bytes of an undisturbed one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inplacekit import photos
from killkit import Kill, Killed
from preparekit import ingested, params_with

from limoe import files
from limoe.config import PrepareParams
from limoe.data.ingest import ingest
from limoe.data.parts import Plan, Workshop
from limoe.data.sources import build
from limoe.data.sources.base import Part
from limoe.data.sources.webdataset import WebDataset
from limoe.data.workers import Here, open_workers

CHOSEN = (
    "prepare.sources=[photos]",
    "prepare.sets={photos: {path: photos, in_place: true}}",
    "prepare.tokenizer.vocab_size=200",
    "prepare.shard_rows=10",
    "prepare.duplicates={drop: leaked, radius: 6, against: []}",
    "train.mixture={photos: 1}",
)


def params() -> PrepareParams:
    return params_with(*CHOSEN).prepare


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with four tars."""
    folder = tmp_path_factory.mktemp("staying")
    photos(folder / "photos", tars=4, each=10)
    return folder


@pytest.fixture(scope="module")
def unbroken(root: Path) -> dict[str, bytes]:
    """What an undisturbed run leaves."""
    ingested(build(params(), root), params(), root / "unbroken")
    return content(root / "unbroken")


def prepare(root: Path, name: str, kill_at: int | None = None) -> int:
    """Into root / name, as the stage does; the number of durable writes."""
    shop = Workshop(Plan.of(params(), root, root / f"{name}-work"), build(params(), root))
    with Kill(kill_at) as kill, files.atomic_directory(root / name) as out:
        ingest(shop, Here(), {}, out)
    return kill.writes


@settings(max_examples=8)
@given(data=st.data())
def test_killed_at_any_write_it_goes_on(data: st.DataObject, root: Path, unbroken: dict[str, bytes]) -> None:
    name = f"killed{len(list(root.iterdir()))}"
    read: list[str] = []
    real = WebDataset.items

    def watched(self: WebDataset, part: Part) -> object:
        read.append(part.name)
        return real(self, part)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WebDataset, "items", watched)
        for at in data.draw(st.lists(st.integers(0, 25), min_size=1, max_size=2, unique=True)):
            try:
                prepare(root, name, at)
                break
            except Killed:
                assert not (root / name).exists() or content(root / name) == unbroken
        done = {int(path.parent.name) for path in (root / f"{name}-work" / "parts").glob("[0-9]*/part.json")}
        read.clear()
        prepare(root, name)
    assert content(root / name) == unbroken
    assert read == [f"{part:05d}.tar" for part in range(4) if part not in done]


def test_a_tar_that_changed_is_read_again(root: Path, unbroken: dict[str, bytes], tmp_path: Path) -> None:
    photos(tmp_path / "photos", tars=4, each=10)
    prepare(tmp_path, "before")
    assert content(tmp_path / "before") == unbroken
    photos(tmp_path / "photos", tars=1, each=8)
    os.utime(tmp_path / "photos" / "00000.tar", (1, 1))
    prepare(tmp_path, "before")
    ingested(build(params(), tmp_path), params(), tmp_path / "anew")
    assert content(tmp_path / "before") == content(tmp_path / "anew") != unbroken


def test_several_processes_write_the_same_bytes(unbroken: dict[str, bytes], tmp_path: Path) -> None:
    photos(tmp_path / "photos", tars=4, each=10)
    with open_workers(params_with("machine.prepare_workers=2").machine) as several:
        ingested(build(params(), tmp_path), params(), tmp_path / "there", workers=several)
    assert content(tmp_path / "there") == unbroken
