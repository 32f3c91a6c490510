"""`router: auto`: what the balance stage writes down, training looks up and people merge, and when it may not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from preparekit import params_with

from limoe.config import Params
from limoe.data.prepared import Prepared
from limoe.data.suggestion import overlay, suggestion, with_suggestion
from limoe.errors import UserError
from limoe.model.router import make_router
from limoe.overlay import merge_overlay
from limoe.paths import Paths

ASKED = "model.moe.router=auto"
VALUES = {"router": "top-k", "capacity_factor": 1.2, "tau_text": 1.5, "tau_image": 2.5}


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """A project whose balance stage suggested VALUES."""
    paths = Paths(tmp_path)
    paths.prepared.mkdir(parents=True)
    (paths.prepared / "manifest.json").write_text('{"version": 2}')
    paths.balance.mkdir(parents=True)
    found = suggestion(VALUES, params_with(ASKED), Prepared(paths.prepared).hash)
    (paths.balance / "suggestion.json").write_text(json.dumps(found))
    return paths


def test_auto_stands_for_the_suggestion(paths: Paths) -> None:
    asked = params_with(ASKED)
    moe = with_suggestion(asked, paths).model.moe
    assert moe == asked.model.moe.model_copy(update=VALUES)
    assert moe.thresholds == (1.5, 2.5)


def test_the_overlay_says_the_same(paths: Paths, project: Path, tmp_path: Path) -> None:
    params, changes = tmp_path / "params.yaml", tmp_path / "suggestion.yaml"
    shutil.copy(project / "params.yaml", params)
    changes.write_text(overlay(VALUES))
    merge_overlay(params, changes)
    assert Params.load(params) == with_suggestion(params_with(ASKED), paths)


def test_who_does_not_ask_needs_no_suggestion(tmp_path: Path) -> None:
    params = params_with("model.moe.tau_text=0.7")
    assert with_suggestion(params, Paths(tmp_path)) is params


def test_a_missing_suggestion_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"suggestion.json: no such file.*run `limoe balance` first"):
        with_suggestion(params_with(ASKED), Paths(tmp_path))


@pytest.mark.parametrize(
    "change, sentence",
    [
        ("model.moe.experts=8", "model.moe.experts was 16, and now it is 8; run `limoe balance` again"),
        ("model.tower.text_length=30", "model.tower.text_length was 24, and now it is 30"),
        ("train.mixture={emoji: 1.0}", "train.mixture was"),
    ],
)
def test_a_suggestion_for_other_settings_is_refused(paths: Paths, change: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        with_suggestion(params_with(ASKED, change), paths)


def test_a_suggestion_for_other_data_is_refused(paths: Paths) -> None:
    (paths.prepared / "manifest.json").write_text('{"version": 2, "splits": {}}')
    with pytest.raises(UserError, match="the hash of data/prepared was"):
        with_suggestion(params_with(ASKED), paths)


def test_no_model_is_built_from_the_word() -> None:
    with pytest.raises(ValueError, match="auto has not been looked up"):
        make_router(8, params_with(ASKED).model.moe, 1)
