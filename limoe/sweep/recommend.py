"""What to use: the robust optimum beside the best single run, and how far each of its settings may move.

The estimator of the robust optimum stands in limoe.sweep.robust. How far a setting may move comes from one logistic model of
success over all points: the place of each setting and its square, no products; the others stay where the recommendation has them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from limoe.sweep.axes import Axis, guess_axes, parse_axes
from limoe.sweep.findings import Bin, Choice, Reach, Recommendation, Sample, Share
from limoe.sweep.logistic import Logistic, fit, main_effects
from limoe.sweep.robust import candidates, finished, fitted_widths, kernel, places, settled
from limoe.sweep.rows import SEARCH, Row, to_rows
from limoe.sweep.success import Points, labelled_points, reference_of

ENOUGH = 0.9  # P(success) that a recommendation keeps
GRID = 400  # steps along an axis in which its reach is looked for
SHOWN = 10  # every so many of them are on the curve


def recommend(table: pa.Table, names: Sequence[str], space_document: Mapping[str, Any] | None) -> Recommendation | None:
    """The recommendation from a table's search trials over the axes `names` of the space; None if no trial finished.

    Without a document the axes are guessed from the values (limoe.sweep.axes).
    """
    rows = [row for row in to_rows(table) if row.phase == SEARCH]
    axes = guess_axes([row.values for row in rows]) if space_document is None else parse_axes(space_document)
    return recommend_rows(rows, [axis for axis in axes if axis.name in names])


def recommend_rows(
    rows: Sequence[Row], axes: Sequence[Axis], limit: float | None = None, finals: Sequence[Row] = ()
) -> Recommendation | None:
    """The recommendation from rows. limit: the loss of success, by default that of the rows' own reference. finals: trials of the
    finalists on fresh seeds, which decide between them."""
    choices = settled(candidates(rows, axes), finals)
    reference = reference_of(choices)
    if reference is None:
        return None
    points = labelled_points(rows, reference.limit if limit is None else limit)
    model = fit(main_effects(axes, [values for values, _ in points]), np.array([success for _, success in points]))
    best = min((row for row in rows if finished(row)), key=lambda row: (row.loss or 0.0, row.point, row.seed))
    success = _near(choices[0], axes, points, model)
    return Recommendation(
        robust=choices[0],
        runner_up=choices[1] if len(choices) > 1 else None,
        best_run=next(choice for choice in choices if choice.point == best.point),
        best_loss=best.loss or 0.0,
        best_seed=best.seed,
        success=success,
        at_risk=success.probability is None or success.probability < ENOUGH,
        reach=[reach(axis, axes, choices[0].values, model) for axis in axes if axis.name in choices[0].values],
    )


def reach(axis: Axis, axes: Sequence[Axis], values: Mapping[str, Any], model: Logistic) -> Reach:
    """How far `axis` may move from `values` before the model's P(success) falls below 0.9."""
    here = _at(model, axes, [dict(values)])[0]
    if axis.choices is not None:
        shares = _at(model, axes, [{**values, axis.name: choice} for choice in axis.choices])
        allowed = [choice for choice, one in zip(axis.choices, shares, strict=True) if _enough(one)]
        bins = [Bin(choice, None, None, one) for choice, one in zip(axis.choices, shares, strict=True)]
        value, probability = values[axis.name], here.probability
        return Reach(axis.name, value, None, None, False, False, allowed if _enough(here) else None, probability, [], bins)
    units = [step / GRID for step in range(GRID + 1)]
    tried = [_value(axis, unit) for unit in units]
    shares = _at(model, axes, [{**values, axis.name: value} for value in tried])
    curve = [Sample(float(tried[i]), shares[i]) for i in range(0, GRID + 1, SHOWN)]
    if not _enough(here):
        return Reach(axis.name, values[axis.name], None, None, False, False, None, here.probability, curve, [])
    start = min(GRID, max(0, round(axis.unit(values[axis.name]) * GRID)))
    first, last = _run(shares, start, -1), _run(shares, start, 1)
    low, high = min(float(values[axis.name]), float(tried[first])), max(float(values[axis.name]), float(tried[last]))
    if axis.integer:
        low, high = float(math.ceil(low - 1e-9)), float(math.floor(high + 1e-9))
    return Reach(axis.name, values[axis.name], low, high, first == 0, last == GRID, None, here.probability, curve, [])


def _near(choice: Choice, axes: Sequence[Axis], points: Points, model: Logistic) -> Share:
    """The model's P(success) at the choice; counted are the points near it, each as much as it is near."""
    here = _at(model, axes, [choice.values])[0]
    rows = [Row(point=i, seed=0, kind="ok", values=values) for i, (values, _) in enumerate(points)]
    success_N = np.array([success for _, success in points])
    units_ND = places(rows, axes)
    widths_D = fitted_widths(units_ND, success_N, np.arange(len(rows)))
    weight_N = kernel(places([Row(0, 0, "ok", choice.values)], axes)[0], units_ND, widths_D)
    return Share(float(weight_N @ success_N), float(weight_N.sum()), here.probability, here.lower, here.upper)


def _at(model: Logistic, axes: Sequence[Axis], points: Sequence[dict[str, Any]]) -> list[Share]:
    return model.shares(main_effects(axes, points))


def _value(axis: Axis, unit: float) -> Any:
    """As `Axis.value`, but not rounded: the model is asked between whole numbers, too."""
    return axis.low * (axis.high / axis.low) ** unit if axis.log else axis.low + unit * (axis.high - axis.low)


def _enough(one: Share) -> bool:
    return one.probability is not None and one.probability >= ENOUGH


def _run(shares: Sequence[Share], start: int, step: int) -> int:
    """The last place from `start` on, in that direction, up to which success is likely enough."""
    at = start
    while 0 <= at + step < len(shares) and _enough(shares[at + step]):
        at += step
    return at
