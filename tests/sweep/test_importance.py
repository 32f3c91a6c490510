"""Importances and interactions of functions whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import kstest
from tablekit import AXES, SPACE, fails_with, row, trials

from limoe.sweep.axes import parse_axes
from limoe.sweep.importance import FAILURE, QUALITY, failure, interactions, quality, quality_points
from limoe.sweep.success import labelled_points

FACTOR, EXPERTS, RATE = "model.moe.capacity_factor", "model.moe.experts", "train.lr"


def test_quality_points_are_means_over_finished_seeds() -> None:
    rows = [row(0, loss=3.0), row(0, loss=4.0, seed=1), row(0, "collapsed", 9.0, seed=2), row(1, "pruned")]
    assert quality_points(rows) == [({"train.lr": 1e-3}, 3.5)]


def test_fanova_finds_the_shares_of_an_additive_function() -> None:
    rows = trials(120, lambda u, _: {"loss": 3 + 1.0 * u[0] + 0.5 * u[2]})
    found = quality(AXES, quality_points(rows))
    # evenly drawn: variances 1/12 and 0.25/12, shares 0.8, 0 and 0.2
    assert found.fanova[RATE] == pytest.approx(0.8, abs=0.06)
    assert found.fanova[FACTOR] == pytest.approx(0.2, abs=0.06)
    assert found.fanova[EXPERTS] == pytest.approx(0.0, abs=0.02)
    assert found.explained is not None
    assert found.explained > 0.9
    assert max(found.ped_anova, key=lambda name: found.ped_anova[name]) == RATE
    for shares in (found.fanova, found.ped_anova):
        assert sum(shares.values()) == pytest.approx(1)
        assert list(shares) == [axis.name for axis in AXES]


def test_failure_is_another_question_than_quality() -> None:
    rows = trials(
        120,
        lambda u, rng: fails_with(lambda u: 0.9 if u[2] < 0.4 else 0.02)(u, rng) | {"loss": 3 + u[0] / 10},
    )
    points = labelled_points(rows, 3.3)
    failing, good = failure(AXES, points), quality(AXES, quality_points(rows))
    for shares in (failing.fanova, failing.ped_anova):
        assert max(shares, key=lambda name: shares[name]) == FACTOR
    assert max(good.fanova, key=lambda name: good.fanova[name]) == RATE


def test_where_nothing_matters_the_forest_explains_nothing() -> None:
    rows = trials(60, lambda _, rng: {"loss": 3 + rng.normal()})
    explained = quality(AXES, quality_points(rows)).explained
    assert explained is not None
    assert explained < 0.1


def test_a_conditional_parameter_is_judged_where_it_can_be() -> None:
    rows = trials(60, lambda u, rng: {"loss": 3 + u[0] + 0.1 * rng.normal()})
    for one in rows:
        if one.values[EXPERTS] == 8:
            del one.values[FACTOR]
    axes = parse_axes({**SPACE, FACTOR: {**SPACE[FACTOR], "when": {EXPERTS: [16, 32]}}})
    found = quality(axes, quality_points(rows))
    assert FACTOR in found.ped_anova
    assert max(found.fanova, key=lambda name: found.fanova[name]) == RATE


def test_null_is_a_choice_and_absent_is_none() -> None:
    """Where a conditional name has null among its choices, a point without the name is not one that chose null."""
    tau = "model.moe.tau_text"
    axes = parse_axes({**SPACE, tau: {"choices": [None, 1.0], "when": {EXPERTS: [16, 32]}}})
    (axis,) = (one for one in axes if one.name == tau)
    assert (axis.place({tau: None}), axis.place({tau: 1.0})) == (0.0, 1.0)
    assert math.isnan(axis.place({EXPERTS: 8}))
    rows = trials(60, lambda u, rng: {"loss": 3 + u[0] + 0.1 * rng.normal()})
    for number, one in enumerate(rows):
        if one.values[EXPERTS] != 8:
            one.values[tau] = None if number % 2 else 1.0
    found = quality(axes, quality_points(rows))
    assert tau in found.ped_anova
    assert max(found.fanova, key=lambda name: found.fanova[name]) == RATE


@pytest.mark.parametrize("target", [QUALITY, FAILURE])
def test_the_pair_that_acts_together_is_found(target: str) -> None:
    def ending(u: np.ndarray, rng: np.random.Generator) -> dict:
        together = (2 * u[0] - 1) * (2 * u[2] - 1)
        failing = rng.random() < 1 / (1 + math.exp(-5 * together))
        return {"loss": 3 + 0.2 * together + 0.1 * rng.normal(), "kind": "collapsed" if failing and target == FAILURE else "ok"}

    rows = trials(150, ending)
    points = labelled_points(rows, 9.0) if target == FAILURE else quality_points(rows)
    first, *others = interactions(AXES, target, points)
    assert (first.first, first.second, first.target, first.df) == (RATE, FACTOR, target, 1)
    assert first.p_holm < 1e-3
    assert all(other.p > 0.01 for other in others)


@pytest.mark.parametrize("target", [QUALITY, FAILURE])
def test_without_interactions_p_is_even(target: str) -> None:
    def ending(u: np.ndarray, rng: np.random.Generator) -> dict:
        failing = rng.random() < 1 / (1 + math.exp(-3 * (2 * u[0] - 1)))
        return {"loss": 3 + u[0] + rng.normal(), "kind": "collapsed" if failing and target == FAILURE else "ok"}

    found = []
    for luck in range(60):
        rows = trials(80, ending, luck=luck)
        points = labelled_points(rows, 99.0) if target == FAILURE else quality_points(rows)
        found += [one.p for one in interactions(AXES, target, points) if (one.first, one.second) == (RATE, FACTOR)]
    assert len(found) == 60
    assert kstest(found, "uniform").pvalue > 0.01


def test_holm_by_hand() -> None:
    rows = trials(80, lambda _, rng: {"loss": 3 + rng.normal()})
    found = interactions(AXES, QUALITY, quality_points(rows))
    p = [one.p for one in found]
    assert p == sorted(p)
    first, second = 3 * p[0], max(3 * p[0], 2 * p[1])
    assert [one.p_holm for one in found] == pytest.approx([min(1, x) for x in (first, second, max(second, p[2]))])


def test_too_little_is_said_and_not_guessed() -> None:
    few = [({"train.lr": 1e-3}, 3.0)] * 9
    assert "too few points: 9" in str(quality(AXES[:1], few).reason)
    assert "alike" in str(quality(AXES[:1], few * 2).reason)
    assert "no parameter" in str(failure([], [({}, 0.0), ({}, 1.0)] * 9).reason)
    assert interactions(AXES, FAILURE, []) == []
    assert interactions(AXES, FAILURE, [({"train.lr": 1e-3}, 0.0)]) == []
