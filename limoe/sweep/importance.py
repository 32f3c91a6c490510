"""Which parameters matter, for quality (the loss among finished trials) and for failure, and which pairs act together.

fANOVA and PED-ANOVA are Optuna's, on a study made in memory from the points, placed in the unit cube (so that a logarithmic
range is one). Pairs: Rao's score test of a product of two parameters in a model with every parameter's place and its square,
linear for quality and logistic for failure.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator, get_param_importances
from sklearn.ensemble import RandomForestRegressor

from limoe.sweep.axes import Axis
from limoe.sweep.findings import Importance, Interaction
from limoe.sweep.logistic import axis_effects, main_effects, products, score_test
from limoe.sweep.robust import finished
from limoe.sweep.rows import Row
from limoe.sweep.success import Points

QUALITY, FAILURE = "quality", "failure"
FEWEST = 10  # points behind an importance
TOP = 0.25  # share of the points, the best ones, that PED-ANOVA tells from the others
TREES, SEED = 64, 0


def quality_points(rows: Sequence[Row]) -> Points:
    """Each point with a finished trial once, in the order of their numbers: values, and the mean loss of its finished seeds."""
    losses: dict[int, list[float]] = defaultdict(list)
    values = {}
    for row in rows:
        if finished(row) and row.loss is not None:
            losses[row.point].append(row.loss)
            values[row.point] = row.values
    return [(values[point], math.fsum(losses[point]) / len(losses[point])) for point in sorted(losses)]


def quality(axes: Sequence[Axis], points: Points) -> Importance:
    """Importances for the loss of `quality_points`."""
    return _importance(QUALITY, axes, points, TOP)


def failure(axes: Sequence[Axis], points: Points) -> Importance:
    """Importances for the share of a point's trials that succeed; PED-ANOVA tells the points that fail from the others."""
    failing = sum(success < 0.5 for _, success in points) / max(1, len(points))
    return _importance(FAILURE, axes, points, failing)


def interactions(axes: Sequence[Axis], target: str, points: Points) -> list[Interaction]:
    """Every pair of axes with an order or choices, the strongest evidence first; empty with too few points to tell."""
    known = [values for values, _ in points]
    answer_N = np.array([answer for _, answer in points], dtype=float)
    main_NF = main_effects(axes, known)
    found = []
    for first, second in itertools.combinations(axes, 2):
        tested_NZ = products(_first_order(first, known), _first_order(second, known))
        tested = score_test(main_NF, tested_NZ, answer_N, target == FAILURE) if points else None
        if tested is not None:
            found.append((first.name, second.name, *tested))
    return _holm(target, sorted(found, key=lambda one: one[4]))


def _importance(target: str, axes: Sequence[Axis], points: Points, top: float) -> Importance:
    answers = [answer for _, answer in points]
    reason = None
    if len(points) < FEWEST:
        reason = f"too few points: {len(points)}, and {FEWEST} are needed"
    elif not axes:
        reason = "no parameter was searched"
    elif max(answers) - min(answers) < 1e-12:
        reason = f"all points are alike: {'the same loss' if target == QUALITY else 'all succeed or all fail'}"
    if reason is not None:
        return Importance(target, len(points), {}, {}, None, reason)
    study = _study(axes, points)
    top = min(0.5, max(top, 2 / len(points)))
    return Importance(
        target=target,
        n=len(points),
        fanova=_shares(study, FanovaImportanceEvaluator(n_trees=TREES, seed=SEED), axes),
        ped_anova=_shares(study, PedAnovaImportanceEvaluator(target_quantile=top), axes),
        explained=_explained(axes, points),
        reason=None,
    )


def _study(axes: Sequence[Axis], points: Points) -> optuna.Study:
    distributions = {axis.name: _distribution(axis) for axis in axes}
    loud = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(direction="minimize")
    finally:
        optuna.logging.set_verbosity(loud)
    for values, answer in points:
        placed = {axis.name: _place(axis, values) for axis in axes}
        there = {name: place for name, place in placed.items() if place is not None}
        own = {name: distributions[name] for name in there}
        study.add_trial(optuna.trial.create_trial(params=there, distributions=own, value=answer))
    return study


def _distribution(axis: Axis) -> BaseDistribution:
    return FloatDistribution(0.0, 1.0) if axis.choices is None else CategoricalDistribution(list(range(len(axis.choices))))


def _place(axis: Axis, values: dict[str, Any]) -> float | int | None:
    unit = axis.place(values)
    if math.isnan(unit):
        return None
    return min(1.0, max(0.0, unit)) if axis.choices is None else axis.choices.index(values[axis.name])


def _shares(study: optuna.Study, evaluator: Any, axes: Sequence[Axis]) -> dict[str, float]:
    """By parameter in the order of the axes; a conditional one that fANOVA cannot judge is left out."""
    found = get_param_importances(study, evaluator=evaluator)
    shares = {axis.name: float(found[axis.name]) for axis in axes if axis.name in found}
    return {name: value if math.isfinite(value) else 0.0 for name, value in shares.items()}


def _explained(axes: Sequence[Axis], points: Points) -> float:
    """Out-of-bag R^2 of a random forest on the places."""
    features = [[axis.place(values) for axis in axes] for values, _ in points]
    filled_ND: NDArray[np.float64] = np.nan_to_num(np.array(features, dtype=float), nan=0.5)
    forest = RandomForestRegressor(n_estimators=100, min_samples_leaf=2, oob_score=True, random_state=SEED, n_jobs=1)
    return float(forest.fit(filled_ND, [answer for _, answer in points]).oob_score_)


def _first_order(axis: Axis, known: list[dict[str, Any]]) -> NDArray[np.float64]:
    effects = axis_effects(axis, known)
    return effects[:, :1] if axis.numeric else effects


def _holm(target: str, found: list[tuple[str, str, float, int, float]]) -> list[Interaction]:
    """With p corrected over all pairs; `found` is in ascending order of p."""
    listed, highest = [], 0.0
    for rank, (first, second, statistic, df, p) in enumerate(found):
        highest = min(1.0, max(highest, p * (len(found) - rank)))
        listed.append(Interaction(first, second, target, statistic, df, p, highest))
    return listed
