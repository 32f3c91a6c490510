"""The robust optimum: which recipe stays good over seeds and over small changes of its settings.

Axes: N trials, I candidate points, D axes of the unit cube.

A trial's value y is its loss; a failure (an alarm, a divergence, no memory) is worth ln(B), what a model that has learnt nothing
loses among B pairs, and no loss counts for more. With u the places of the values in the unit cube and h_d a width per axis

    w_ij = exp(-1/2 sum_d ((u_id - u_jd) / h_d)^2)          a trial's own point has w = 1; absent against present is 1 apart
    m_i  = sum_j w_ij y_j / sum_j w_ij                      expected value at point i
    n_i  = (sum_j w_ij)^2 / sum_j w_ij^2                    effective number of trials behind it
    s_i^2 = (sum_j w_ij (y_j - m_i)^2 + s^2) / (sum_j w_ij + 1)
    U_i  = m_i + 1.645 s_i / sqrt(n_i)                      its upper one-sided 95% limit, which the robust optimum minimises

s^2 is the mean squared error of predicting each point from the others, counted as one observation so that a lone lucky run
is not trusted. The widths minimise that error over 0.1, 0.2, 0.4 and infinity (an axis that does not matter joins
neighbours along it), axis by axis from 0.2; none is below 0.1: a recipe must hold when a setting moves by a tenth of its range.

The search has picked its best by luck, too. Where the finalists have been rerun, fresh seeds decide between them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from limoe.sweep.axes import Axis
from limoe.sweep.findings import Choice
from limoe.sweep.points import VALIDATION_BATCH
from limoe.sweep.rows import Row

Array = NDArray[np.float64]
CHANCE = math.log(VALIDATION_BATCH)  # nats
FAILED = ("diverged", "collapsed", "unhealthy", "oom")
WIDTHS = (0.1, 0.2, 0.4, math.inf)
START = 0.2
GAIN = 0.02  # a width changes only for an error that is smaller by this share
PASSES = 3
Z_ONE_SIDED = 1.6448536269514722


def finished(row: Row) -> bool:
    """Whether the trial came to its end without alarm and has a loss."""
    return row.kind == "ok" and row.loss is not None


def counts(row: Row) -> bool:
    """Whether the trial says how good its point is: finished or failed; not pruned, killed or in error."""
    return finished(row) or row.kind in FAILED


def candidates(rows: Sequence[Row], axes: Sequence[Axis]) -> list[Choice]:
    """Every point with a finished trial, the robust optimum first (smallest U, as the module says); empty without any."""
    used = [row for row in rows if counts(row)]
    points = sorted({row.point for row in used if finished(row)})
    if not points:
        return []
    units_ND, value_N = places(used, axes), values(used)
    group_N = np.array([row.point for row in used])
    widths_D = fitted_widths(units_ND, value_N, group_N)
    noise = _error(units_ND, value_N, group_N, widths_D)
    first = {row.point: i for i, row in reversed(list(enumerate(used)))}
    choices = []
    for point in points:
        weight_N = kernel(units_ND[first[point]], units_ND, widths_D)
        expected, bound, effective = _estimate(weight_N, value_N, noise)
        choices.append(_choice(point, [row for row in used if row.point == point], expected, bound, effective))
    return sorted(choices, key=lambda choice: (choice.bound, choice.point))


def settled(choices: Sequence[Choice], finals: Sequence[Row]) -> list[Choice]:
    """The choices with those first that `finals`, trials on fresh seeds, were run of: by what these are worth on average."""
    values_by_point: dict[int, list[float]] = defaultdict(list)
    losses_by_point: dict[int, list[float]] = defaultdict(list)
    for row, value in zip(used := [row for row in finals if counts(row)], values(used), strict=True):
        values_by_point[row.point].append(value)
        losses_by_point[row.point] += [row.loss] if finished(row) and row.loss is not None else []
    mean = {point: math.fsum(own) / len(own) for point, own in values_by_point.items() if losses_by_point[point]}
    first = [replace(one, fresh=fmean(losses_by_point[one.point])) for one in choices if one.point in mean]
    return sorted(first, key=lambda one: mean[one.point]) + [one for one in choices if one.point not in mean]


def places(rows: Sequence[Row], axes: Sequence[Axis]) -> Array:
    """[N, D] in 0..1, NaN where a value is absent."""
    return np.array([[axis.place(row.values) for axis in axes] for row in rows], dtype=float).reshape(len(rows), -1)


def values(rows: Sequence[Row]) -> Array:
    """[N]: what each trial is worth, in nats: its loss, and ln(B) for a failure or a loss above it."""
    return np.array([min(row.loss, CHANCE) if row.kind == "ok" and row.loss is not None else CHANCE for row in rows])


def kernel(at_D: Array, units_ND: Array, widths_D: Array) -> Array:
    """[N]: weight of each trial as a neighbour of the place `at_D`."""
    apart_ND = np.abs(units_ND - at_D)
    absent_ND = np.isnan(units_ND) != np.isnan(at_D)
    apart_ND = np.where(np.isnan(apart_ND), absent_ND.astype(float), apart_ND)
    return np.asarray(np.exp(-0.5 * ((apart_ND / widths_D) ** 2).sum(1)))


def fitted_widths(units_ND: Array, value_N: Array, group_N: NDArray[np.int64]) -> Array:
    """[D]: the widths with the smallest error of predicting each point from the others; START with fewer than 8 points."""
    widths_D = np.full(units_ND.shape[1], START)
    if len(set(group_N.tolist())) < 8:
        return widths_D
    best = _error(units_ND, value_N, group_N, widths_D)
    for _ in range(PASSES):
        before = widths_D.copy()
        for axis in range(len(widths_D)):
            for width in WIDTHS:
                tried_D = widths_D.copy()
                tried_D[axis] = width
                error = _error(units_ND, value_N, group_N, tried_D)
                if error < best * (1 - GAIN):
                    best, widths_D = error, tried_D
        if (before == widths_D).all():
            break
    return widths_D


def _error(units_ND: Array, value_N: Array, group_N: NDArray[np.int64], widths_D: Array) -> float:
    """Mean squared error of each trial's value, predicted from the trials of other points; their variance without neighbours."""
    weight_NN = np.stack([kernel(unit_D, units_ND, widths_D) for unit_D in units_ND])
    weight_NN[group_N[:, None] == group_N[None, :]] = 0.0
    mean = float(value_N.mean())
    predicted_N = (weight_NN @ value_N + 1e-3 * mean) / (weight_NN.sum(1) + 1e-3)  # far from all others: the mean
    return float(((value_N - predicted_N) ** 2).mean())


def _estimate(weight_N: Array, value_N: Array, noise: float) -> tuple[float, float, float]:
    total = float(weight_N.sum())
    expected = float(weight_N @ value_N) / total
    effective = total**2 / float(weight_N @ weight_N)
    variance = (float(weight_N @ (value_N - expected) ** 2) + noise) / (total + 1)
    return expected, expected + Z_ONE_SIDED * math.sqrt(variance / effective), effective


def _choice(point: int, own: list[Row], expected: float, bound: float, effective: float) -> Choice:
    losses = [row.loss for row in own if finished(row) and row.loss is not None]
    return Choice(
        point=point,
        values=dict(own[0].values),
        loss=math.fsum(losses) / len(losses),
        seeds=len(losses),
        failures=len(own) - len(losses),
        expected=expected,
        bound=bound,
        neighbours=effective,
    )
