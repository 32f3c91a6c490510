"""`tau = balance`: what the balance stage writes down and training looks up, and when it may not."""

from __future__ import annotations

import json
import math

import pytest
from preparekit import params_with

from limoe.config import Params
from limoe.data.prepared import Prepared
from limoe.data.thresholds import suggestion, with_thresholds
from limoe.errors import UserError
from limoe.paths import Paths

ASKED = "model.moe.tau_text=balance"


@pytest.fixture
def paths(tmp_path) -> Paths:
    """A project whose balance stage suggested 1.5 and 2.5."""
    paths = Paths(tmp_path)
    paths.prepared.mkdir(parents=True)
    (paths.prepared / "manifest.json").write_text('{"version": 1}')
    write(paths, params_with(ASKED))
    return paths


def write(paths: Paths, params: Params) -> None:
    paths.balance.mkdir(parents=True, exist_ok=True)
    suggested = suggestion(1.5, 2.5, params, Prepared(paths.prepared).hash)
    (paths.balance / "thresholds.json").write_text(json.dumps(suggested))


def test_balance_stands_for_the_suggestion(paths):
    assert with_thresholds(params_with(ASKED), paths).model.moe.thresholds == (1.5, math.log(10))
    assert with_thresholds(params_with("model.moe.tau_image=balance"), paths).model.moe.thresholds == (math.log(5), 2.5)
    both = params_with(ASKED, "model.moe.tau_image=balance")
    assert with_thresholds(both, paths).model.moe.thresholds == (1.5, 2.5)
    assert with_thresholds(both, paths).model.moe.tau_text == 1.5


def test_who_does_not_ask_needs_no_suggestion(tmp_path):
    params = params_with("model.moe.tau_text=0.7")
    assert with_thresholds(params, Paths(tmp_path)) is params


def test_a_missing_suggestion_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match=r"thresholds.json: no such file.*run `limoe balance` first"):
        with_thresholds(params_with(ASKED), Paths(tmp_path))


@pytest.mark.parametrize(
    "change, sentence",
    [
        ("model.moe.experts=8", "model.moe.experts was 16, and now it is 8; run `limoe balance` again"),
        ("model.tower.text_length=30", "model.tower.text_length was 24, and now it is 30"),
        ("train.mixture={emoji: 1.0}", "train.mixture was"),
    ],
)
def test_a_suggestion_for_other_settings_is_refused(paths, change, sentence):
    with pytest.raises(UserError, match=sentence):
        with_thresholds(params_with(ASKED, change), paths)


def test_a_suggestion_for_other_data_is_refused(paths):
    (paths.prepared / "manifest.json").write_text('{"version": 1, "splits": {}}')
    with pytest.raises(UserError, match="the hash of data/prepared was"):
        with_thresholds(params_with(ASKED), paths)


def test_nothing_is_computed_from_the_word():
    with pytest.raises(ValueError, match="balance has not been looked up"):
        params_with(ASKED).model.moe.thresholds  # noqa: B018
