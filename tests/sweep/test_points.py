"""What a point's trials amount to, against tables written by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from limoe.evals.validation import BATCH
from limoe.sweep.outcome import KINDS, Outcome
from limoe.sweep.points import FINAL_SEEDS, PENALTY, RETRIED, VALIDATION_BATCH, Verdict, judge, promising, trial_loss


def outcome(kind: Any = "ok", loss: float | None = 3.0, step: int = 100, seconds: float = 60.0) -> Outcome:
    return Outcome(kind=kind, step=step, evidence="", steps_planned=100, seconds=seconds, loss=loss)


def closed(*losses: float | None) -> list[Verdict]:
    return [Verdict("fail") if loss is None else Verdict("complete", loss, 60.0, True) for loss in losses]


def test_the_penalty_is_worse_than_chance_at_the_objectives_batch() -> None:
    assert VALIDATION_BATCH == BATCH
    assert pytest.approx(1.5 * math.log(BATCH)) == PENALTY


@pytest.mark.parametrize(
    "ended, counts",
    [
        (outcome("ok", 2.5), 2.5),
        (outcome("unhealthy", 2.5), 2.5),
        (outcome("collapsed", 2.5), 2.5),
        (outcome("collapsed", 2.5, step=40), PENALTY),
        (outcome("unhealthy", None, step=40), PENALTY),
        (outcome("diverged", None, step=40), PENALTY),
        (outcome("diverged", 2.5), PENALTY),
        (outcome("ok", math.inf), PENALTY),
        (outcome("oom", None), None),
        (outcome("pruned", 2.5), None),
        (outcome("killed", 2.5), None),
        (outcome("error", None), None),
    ],
)
def test_what_a_trial_counts_with(ended: Outcome, counts: float | None) -> None:
    assert trial_loss(ended) == counts


def test_every_kind_is_decided() -> None:
    assert {kind for kind in KINDS if trial_loss(outcome(kind, 1.0)) is not None} == {"ok", "unhealthy", "collapsed", "diverged"}
    assert set(RETRIED) < set(KINDS)
    assert min(FINAL_SEEDS) == 1000
    assert len(set(FINAL_SEEDS)) == 5


def test_verdicts() -> None:
    assert judge([outcome(loss=2.0, seconds=10), outcome(loss=4.0, seconds=30)]) == Verdict("complete", 3.0, 20.0, True)
    assert judge([outcome(loss=2.0), outcome("collapsed", 4.0)]) == Verdict("complete", 3.0, 60.0, False)
    assert judge([outcome(loss=2.0), outcome("oom", None)]) == Verdict("complete", 2.0, 60.0, False)
    # 60 s for 3 of 100 steps: 2,000 s for all of them
    assert judge([outcome("diverged", None, 3)]) == Verdict("complete", PENALTY, pytest.approx(2000.0), False)
    assert judge([outcome("diverged", None, 0, seconds=0.0)]) == Verdict("complete", PENALTY, 0.0, False)
    assert judge([outcome("pruned", 2.0)]) == Verdict("pruned")
    assert judge([outcome("killed", None)]) == judge([outcome("error"), outcome("oom")]) == Verdict("fail")


@pytest.mark.parametrize(
    "others, loss, wanted",
    [
        ([], 5.0, True),  # the first of one
        ([4.0], 5.0, False),  # the second of two, of which one may be
        ([6.0], 5.0, True),
        ([4.0, 6.0, 7.0], 5.0, True),  # the second of four: two thirds of a point round up to two
        ([4.0, 4.5, 7.0], 5.0, False),
        ([4.0, 4.5, 7.0, 8.0, None, None], 5.0, True),  # the third of seven
        ([5.0, 5.0, 5.0], 5.0, True),  # none is ahead
    ],
)
def test_the_better_third_is_promising(others: list[float | None], loss: float, wanted: bool) -> None:
    assert promising(Verdict("complete", loss, 60.0, True), closed(*others)) == wanted


def test_only_what_succeeded_is_promising_or_ahead() -> None:
    collapsed = Verdict("complete", 1.0, 60.0, False)
    assert not promising(collapsed, closed(4.0, 5.0))
    assert not promising(Verdict("pruned"), [])
    assert promising(Verdict("complete", 3.0, 60.0, True), [collapsed, collapsed, Verdict("pruned")])
