"""The robust optimum against landscapes whose answer is known, and how far its settings reach."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from tablekit import AXES, LR, ONE, SPACE, fails_with, row, trials

from limoe.sweep.axes import Axis
from limoe.sweep.logistic import axis_effects, fit, main_effects, score_test
from limoe.sweep.recommend import reach, recommend, recommend_rows
from limoe.sweep.robust import CHANCE, candidates, kernel
from limoe.sweep.rows import Row, to_table


def line(losses: list[float], luck: int = 0) -> list[Row]:
    return [row(i, loss=loss, lr=LR.value(i / (len(losses) - 1))) for i, loss in enumerate(losses)]


def test_the_estimate_by_hand() -> None:
    rows = [row(0, loss=3.0, lr=LR.value(0.0)), row(1, loss=4.0, lr=LR.value(0.2)), row(2, "diverged", None, lr=LR.value(1.0))]
    first = next(one for one in candidates(rows, [LR]) if one.point == 0)
    w1, w2 = math.exp(-0.5), math.exp(-0.5 * 25)  # 0.2 and 1 apart, in units of the width 0.2
    mean = (3 + w1 * 4 + w2 * CHANCE) / (1 + w1 + w2)
    n = (1 + w1 + w2) ** 2 / (1 + w1**2 + w2**2)
    far = 1e-3 * (3 + 4 + CHANCE) / 3
    errors = [  # each point from the two others
        3 - (w1 * 4 + w2 * CHANCE + far) / (w1 + w2 + 1e-3),
        4 - (w1 * 3 + math.exp(-8) * CHANCE + far) / (w1 + math.exp(-8) + 1e-3),
        CHANCE - (w2 * 3 + math.exp(-8) * 4 + far) / (w2 + math.exp(-8) + 1e-3),
    ]
    noise = sum(error**2 for error in errors) / 3
    scatter = (3 - mean) ** 2 + w1 * (4 - mean) ** 2 + w2 * (CHANCE - mean) ** 2
    bound = mean + 1.6449 * math.sqrt((scatter + noise) / (2 + w1 + w2) / n)
    assert first.expected == pytest.approx(mean)
    assert first.neighbours == pytest.approx(n)
    assert first.bound == pytest.approx(bound, rel=1e-4)
    assert (first.loss, first.seeds, first.failures) == (3.0, 1, 0)


def test_a_broad_optimum_is_preferred_to_a_sharp_one() -> None:
    units = np.linspace(0, 1, 41)
    losses = 4.5 - 1.2 * np.exp(-0.5 * ((units - 0.7) / 0.12) ** 2) - 1.6 * np.exp(-0.5 * ((units - 0.2) / 0.012) ** 2)
    found = recommend_rows(line(losses.tolist()), [LR])
    assert found is not None
    assert LR.unit(found.best_run.values["train.lr"]) == pytest.approx(0.2)
    assert found.best_loss == pytest.approx(2.9, abs=0.01)
    assert LR.unit(found.robust.values["train.lr"]) == pytest.approx(0.7, abs=0.06)


@pytest.mark.parametrize("luck", range(5))
def test_a_lucky_run_is_not_picked(luck: int) -> None:
    rng = np.random.default_rng(luck)
    units = np.linspace(0, 1, 31)
    losses = 3 + 4 * (units - 0.6) ** 2 + 0.05 * rng.normal(size=31)
    losses[3] = 2.8  # where 4.0 is expected
    found = recommend_rows(line(losses.tolist()), [LR])
    assert found is not None
    assert found.best_run.point == 3
    assert abs(LR.unit(found.robust.values["train.lr"]) - 0.6) < 0.15


def test_failures_of_neighbours_and_of_other_seeds_count_as_chance() -> None:
    def ending(units: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
        edge = units[0] > 0.6 and rng.random() < 0.5  # the lower losses lie where every other training fails
        return {"kind": "collapsed" if edge else "ok", "loss": 3.2 - 0.3 * units[0]}

    found = recommend_rows(trials(60, ending, seeds=2, space=ONE), [LR])
    assert found is not None
    assert LR.unit(found.best_run.values["train.lr"]) > 0.9
    assert LR.unit(found.robust.values["train.lr"]) < 0.6
    assert found.robust.failures == 0


def test_an_axis_that_does_not_matter_brings_neighbours() -> None:
    rows = trials(60, lambda u, rng: {"loss": 3 + 4 * (u[0] - 0.5) ** 2 + 0.05 * rng.normal()})
    found = recommend_rows(rows, AXES)
    alone = kernel(np.zeros(3), np.array([[0.0, 0.5, 1.0]]), np.array([0.1, math.inf, math.inf]))
    assert alone.tolist() == [1.0]
    assert found is not None
    assert found.robust.neighbours > 6
    assert LR.unit(found.robust.values["train.lr"]) == pytest.approx(0.5, abs=0.12)


def test_the_reach_ends_where_success_falls_below_nine_tenths() -> None:
    def failing(units: np.ndarray) -> float:
        return float(1 / (1 + math.exp(-24 * (units[0] - 0.75))))  # one in ten fails at 0.658

    highs = []
    for luck in range(8):
        rows = trials(120, lambda u, rng: fails_with(failing)(u, rng) | {"loss": 3 + (u[0] - 0.3) ** 2}, space=ONE, luck=luck)
        found = recommend_rows(rows, [LR])
        assert found is not None
        assert not found.at_risk
        (one,) = found.reach
        assert one.low_is_edge
        assert not one.high_is_edge
        highs.append(LR.unit(one.high))
    assert np.mean(highs) == pytest.approx(0.75 - math.log(9) / 24, abs=0.05)


def test_the_reach_of_choices_and_of_whole_numbers() -> None:
    experts, warmup = AXES[1], Axis("train.warmup", 0, 10, integer=True)
    points = [{"model.moe.experts": e, "train.warmup": w} for e in (8, 16, 32) for w in range(11) for _ in range(4)]
    good = np.array([float(p["model.moe.experts"] < 32 and p["train.warmup"] < 8) for p in points])
    model = fit(main_effects([experts, warmup], points), good)
    here = {"model.moe.experts": 8, "train.warmup": 2}
    assert reach(experts, [experts, warmup], here, model).allowed == [8, 16]
    whole = reach(warmup, [experts, warmup], here, model)
    assert whole.low == 0.0
    assert whole.high in (6.0, 7.0)  # of 7, and a logistic model's bend is soft
    nowhere = reach(warmup, [experts, warmup], {"model.moe.experts": 32, "train.warmup": 9}, model)
    assert (nowhere.low, nowhere.high, nowhere.allowed) == (None, None, None)
    assert reach(experts, [experts, warmup], {"model.moe.experts": 32, "train.warmup": 9}, model).allowed is None


def test_recommend_reads_the_search_alone_and_needs_a_finished_trial() -> None:
    rows = [row(0, loss=3.0), row(1, loss=3.5, lr=5e-3), row(0, loss=1.0, seed=1000, phase="final")]
    found = recommend(to_table(rows), list(SPACE), SPACE)
    assert found is not None
    assert (found.robust.point, found.best_loss, found.best_seed) == (0, 3.0, 0)
    assert found.runner_up is not None
    assert found.runner_up.point == 1
    for kind in ("diverged", "pruned", "killed"):
        assert recommend(to_table([row(0, kind, None)]), ["train.lr"], ONE) is None
    assert recommend(to_table([]), ["train.lr"], None) is None


def test_the_logistic_model_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(80, 3))
    answers = (rng.random(80) < 1 / (1 + np.exp(-features[:, 0]))).astype(float)
    ours = fit(features, answers, prior=2.0)
    theirs = LogisticRegression(C=4.0, tol=1e-10).fit(features, answers)  # does not shrink the intercept, we hardly
    assert ours.weights_F[1:] == pytest.approx(theirs.coef_[0], abs=2e-3)
    assert ours.weights_F[0] == pytest.approx(theirs.intercept_[0], abs=2e-3)


def test_the_logistic_model_stays_finite_for_separated_classes_and_takes_shares() -> None:
    z = np.linspace(-1, 1, 20)[:, None]
    model = fit(z, (z[:, 0] > 0).astype(float))
    assert np.isfinite(model.weights_F).all()
    assert model.shares(np.array([[1.0]]))[0].probability > 0.95  # type: ignore[operator]
    halves = fit(np.zeros((4, 0)), np.array([0.5, 0.5, 1.0, 0.0]))
    assert halves.weights_F == pytest.approx([0.0])


def test_the_score_test_of_a_linear_model_is_the_textbooks() -> None:
    rng = np.random.default_rng(1)
    x, z = rng.normal(size=(60, 2)), rng.normal(size=(60, 1))
    y = x[:, 0] + 0.4 * z[:, 0] + rng.normal(size=60)
    design = np.column_stack([np.ones(60), x])
    sums = [float(((y - m @ np.linalg.lstsq(m, y, rcond=None)[0]) ** 2).sum()) for m in (design, np.column_stack([design, z]))]
    found = score_test(x, z, y, binary=False)
    assert found is not None
    assert found[:2] == (pytest.approx((sums[0] - sums[1]) / (sums[0] / 57)), 1)
    assert score_test(x[:9], z[:9], y[:9], binary=False) is None


def test_effects_of_axes_by_hand() -> None:
    numbers = axis_effects(LR, [{"train.lr": 1e-4}, {"train.lr": 1e-3}, {}])
    assert numbers == pytest.approx(np.array([[-1, 2 / 3], [0, -1 / 3], [0, 0]]))
    names = axis_effects(Axis("r", choices=("a", "b", "c")), [{"r": "a"}, {"r": "c"}, {}])
    assert names.tolist() == [[0, 0], [0, 1], [0, 0]]
    assert axis_effects(Axis("b", choices=(1, 2)), [{"b": 1}, {"b": 2}]).tolist() == [[-1], [1]]
