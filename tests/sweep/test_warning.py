"""Early warning on health whose power to warn is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm
from tablekit import row, trials

from limoe.sweep.rows import Row
from limoe.sweep.warning import halves, interval, threshold, warn_early


def warned(shift: float, rng: np.random.Generator, share: float = 0.4) -> dict[str, Any]:
    """A trial whose loss at 10% lies `shift` standard deviations higher if it will fail; the gradient norm knows nothing."""
    failing = bool(rng.random() < share)
    early = {"10/loss": float(rng.normal() + shift * failing), "10/gradient_norm": float(math.exp(rng.normal()))}
    return {"kind": "unhealthy" if failing else "ok", "early": early}


def test_the_area_under_roc_is_that_of_two_normal_distributions() -> None:
    rows = trials(3200, lambda _, rng: warned(1.5, rng))
    early = warn_early(rows, 3.3)[0]
    by_name = {one.name: one for one in early.predictors}
    truth = norm.cdf(1.5 / math.sqrt(2))
    assert by_name["loss"].auc == pytest.approx(truth, abs=0.03)
    assert by_name["loss"].failing == "high"
    assert by_name["combined"].auc == pytest.approx(truth, abs=0.04)
    assert by_name["gradient_norm"].auc == pytest.approx(0.5, abs=0.04)
    loss = by_name["loss"]
    assert loss.caught is not None
    assert loss.false_alarms is not None
    assert loss.caught.probability == pytest.approx(norm.sf(norm.isf(0.05) - 1.5), abs=0.1)  # caught at 5% false alarms
    assert loss.false_alarms.probability == pytest.approx(0.05, abs=0.035)
    assert loss.roc[0] == (0.0, 0.0)
    assert loss.roc[-1] == (1.0, 1.0)


def test_a_figure_that_is_low_before_failures_warns_as_well() -> None:
    rows = trials(400, lambda _, rng: warned(-2.0, rng))
    loss = next(one for one in warn_early(rows, 3.3)[0].predictors if one.name == "loss")
    assert loss.failing == "low"
    assert loss.auc == pytest.approx(norm.cdf(2 / math.sqrt(2)), abs=0.05)
    assert loss.caught is not None
    assert loss.caught.probability is not None
    assert loss.caught.probability > 0.4


def test_the_area_is_the_share_of_pairs_in_the_right_order() -> None:
    rows = trials(80, lambda _, rng: warned(1.0, rng))
    fitted = halves([one.point for one in rows], [one.kind != "ok" for one in rows])
    values = [(one.early["10/loss"], one.kind != "ok") for one in rows if not fitted[one.point]]
    pairs = [(a > b) + 0.5 * (a == b) for a, failing in values if failing for b, other in values if not other]
    loss = next(one for one in warn_early(rows, 3.3)[0].predictors if one.name == "loss")
    assert loss.auc == pytest.approx(np.mean(pairs))


def test_what_has_failed_by_then_is_no_prediction() -> None:
    stopped = [row(100 + i, "diverged", None, early={"10/loss": 1.0}) for i in range(3)]
    stopped = [Row(**{**vars(one), "step": 60}) for one in stopped]  # of 400
    alarmed = [row(200, "collapsed", early={f"{p}/loss": 1.0 for p in (10, 20, 30)}, alarm_step=110)]
    rows = [*trials(60, lambda _, rng: warned(1.0, rng)), *stopped, *alarmed, row(300, "pruned", early={"10/loss": 1.0})]
    ten, twenty, thirty = warn_early(rows, 3.3)
    assert (ten.over, twenty.over, thirty.over) == (0, 3, 4)
    assert ten.successes + ten.failures == 64


def test_a_trial_that_falls_behind_is_a_failure_to_warn_of() -> None:
    rows = [row(i, loss=3.0 if i % 2 else 4.0, early={"10/loss": float(i % 2 == 0)}) for i in range(80)]
    early = warn_early(rows, 3.3)[0]
    assert (early.successes, early.failures) == (40, 40)
    only = early.predictors[0]
    assert (only.auc, only.upper) == (1.0, 1.0)
    assert only.lower is not None
    assert 0.7 < only.lower < 1
    assert only.caught is not None
    assert only.caught.probability == 1
    assert len(early.predictors) == 1  # nothing to combine


def test_a_rule_of_many_figures_raises_no_more_false_alarms_than_it_promises() -> None:
    """On noise nothing can be told, and 1 in 20 successes should be accused; read off the fitted half itself it was 1 in 5."""

    def noise(_: Any, rng: np.random.Generator) -> dict[str, Any]:
        return {
            "kind": "unhealthy" if rng.random() < 0.4 else "ok",
            "early": {f"10/figure{i}": float(rng.normal()) for i in range(12)},
        }

    found = [warn_early(trials(120, noise, luck=seed), 3.3)[0].predictors[-1] for seed in range(12)]
    accused = [one.false_alarms.hits for one in found if one.false_alarms is not None]
    successes = [one.false_alarms.n for one in found if one.false_alarms is not None]
    assert {one.name for one in found} == {"combined"}
    assert sum(accused) / sum(successes) == pytest.approx(0.05, abs=0.03)


def test_recipes_are_halved_whole_and_alike() -> None:
    points = [point for point in range(40) for _ in range(3)]
    fails = [point < 20 for point in points]
    first = halves(points, fails)
    assert sum(first.values()) == 20
    assert sum(first[point] for point in range(20)) == 10
    assert halves(points, fails) == first


def test_the_threshold_lets_one_success_in_twenty_pass() -> None:
    scores = np.arange(50, dtype=float)
    fails = np.array([False] * 40 + [True] * 10)
    assert (scores[:40] > threshold(scores, fails)).sum() == 2
    assert (scores[:19] > threshold(scores[:19], fails[:19])).sum() == 0


@pytest.mark.parametrize("many, which", [(4, "failures"), (56, "successes")])
def test_too_few_of_a_class_is_said(many: int, which: str) -> None:
    rows = [row(i, "unhealthy" if i < many else "ok", early={"10/loss": float(i)}) for i in range(60)]
    early = warn_early(rows, 3.3)[0]
    assert early.predictors == []
    assert early.reason == f"too few {which} to tell: 4, and 5 are needed"


def test_what_knows_nothing_tells_nothing() -> None:
    """Without any power the area is a half: direction and rule were not chosen on the trials that it is told of."""
    areas = []
    for simulation in range(60):
        rng = np.random.default_rng(simulation)
        rows = [row(i, "unhealthy" if i % 3 == 0 else "ok", early={"10/loss": float(rng.normal())}) for i in range(90)]
        areas += [one.auc for one in warn_early(rows, 3.3)[0].predictors]
    assert np.mean(areas) == pytest.approx(0.5, abs=3 * np.std(areas) / math.sqrt(len(areas)))


def test_too_few_for_two_halves_says_so_and_no_more() -> None:
    rows = [row(i, "unhealthy" if i < 7 else "ok", early={"10/loss": float(i)}) for i in range(30)]
    (only,) = warn_early(rows, 3.3)[0].predictors
    assert only.auc is None
    assert only.caught is None
    assert only.reason is not None
    assert "5 are needed" in only.reason


def test_the_interval_of_an_area_holds_the_truth() -> None:
    rng = np.random.default_rng(0)
    truth = norm.cdf(1 / math.sqrt(2))
    held = []
    for _ in range(400):
        bad, good = rng.normal(1, 1, 20), rng.normal(0, 1, 30)
        low, high = interval(float((bad[:, None] > good[None, :]).mean()), 20, 30)
        held.append(low <= truth <= high)
    assert np.mean(held) > 0.917  # 0.95 less three standard errors


def test_the_interval_of_a_perfect_area_is_not_empty() -> None:
    low, high = interval(1.0, 10, 10)
    assert high == 1.0
    assert 0.6 < low < 0.95
    assert interval(0.0, 10, 10) == pytest.approx((0.0, 1 - low))


def test_no_trials_no_warning() -> None:
    assert [one.reason for one in warn_early([], None)] == ["too few failures to tell: 0, and 5 are needed"] * 3
