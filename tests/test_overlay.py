"""Editing params.yaml as a person would: values change, comments and order stay."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest
import yaml

from limoe.config import Params
from limoe.errors import UserError
from limoe.overlay import dump_document, load_document, merge_overlay


@pytest.fixture
def copy(tmp_path: Path, project: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text((project / "params.yaml").read_text())
    return path


def overlay(folder: Path, text: str) -> Path:
    path = folder / "overlay.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["params.yaml", "dvc.yaml"])
def test_what_is_not_touched_stays_to_the_byte(project: Path, name: str) -> None:
    assert dump_document(load_document(project / name)) == (project / name).read_text()


def test_only_the_named_values_change(copy: Path) -> None:
    shipped = Params.load(copy)
    before = copy.read_text().splitlines()
    merge_overlay(
        copy, overlay(copy.parent, "train: {lr: 1e-3, steps: 700}\nprepare: {emoji: {limit: 250, languages: [de, fr]}}")
    )
    removed = [
        line[1:].split("#")[0].strip()
        for line in difflib.unified_diff(before, copy.read_text().splitlines(), n=0)
        if line.startswith("-") and not line.startswith("---")
    ]
    assert removed == ["languages: [en]", "limit: null", f"steps: {shipped.train.steps}", f"lr: {shipped.train.lr}"]
    resolved = Params.load(copy)
    assert (resolved.train.lr, resolved.train.steps) == (0.001, 700)
    assert (resolved.prepare.emoji.limit, resolved.prepare.emoji.languages) == (250, ("de", "fr"))


def test_every_comment_and_the_order_of_keys_survive_the_debug_overlay(copy: Path, project: Path) -> None:
    before = copy.read_text()
    merge_overlay(copy, project / "overlays" / "debug.yaml")

    def comments(text: str) -> list[str]:
        return [line.split("# ", 1)[1] for line in text.splitlines() if "# " in line]

    def keys(text: str) -> list[str]:
        return [f"{section}.{key}" for section, values in yaml.safe_load(text).items() for key in values]

    assert comments(copy.read_text()) == comments(before)
    assert keys(copy.read_text()) == keys(before)
    merged = copy.read_text()
    merge_overlay(copy, project / "overlays" / "debug.yaml")
    assert copy.read_text() == merged


def test_a_new_key_of_an_open_mapping_is_added(copy: Path) -> None:
    merge_overlay(copy, overlay(copy.parent, "contestants: {dense: {lr: 0.5}}"))
    assert Params.load(copy).train_for("dense").lr == 0.5


@pytest.mark.parametrize(
    "text,sentence",
    [
        ("train: {stpes: 1}", "unknown key train.stpes; did you mean train.steps?"),
        ("train: {steps: -1}", "train.steps = -1 is not allowed"),
        ("train: [1]", "train"),
        ("- 1", "must be a mapping"),
    ],
)
def test_a_wrong_overlay_is_refused_and_changes_nothing(copy: Path, text: str, sentence: str) -> None:
    before = copy.read_text()
    with pytest.raises(UserError, match=r"overlay\.yaml") as caught:
        merge_overlay(copy, overlay(copy.parent, text))
    assert sentence in str(caught.value)
    assert copy.read_text() == before
