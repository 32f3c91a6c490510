"""Which trials succeeded, and the probability of success by one parameter and by two.

A trial succeeds if it finished without alarm and its loss is within 10% of its budget's best robust recipe. That reference
comes first, from losses alone (limoe.sweep.robust), and the labels from it. Pruned trials are censored: they, and trials that the
machine or a mistake ended (killed, error), have no label. Points, not trials, are counted, each once with the share of its seeds
that succeeded: promising points are tried with more seeds, which must not make success look more likely.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from limoe.sweep.axes import Axis
from limoe.sweep.findings import Bin, Choice, Counts, Curve, Failure, Pair, Reference, Sample, Share
from limoe.sweep.robust import FAILED, candidates, finished, settled
from limoe.sweep.rows import Row

MARGIN = 0.10
WIDTH = 0.08  # of the smooth curve's kernel, as a share of the range
PLACES = 41  # of the smooth curve
PER_BIN, MOST_BINS, PAIR_BINS = 8, 6, 3
Points = list[tuple[dict[str, Any], float]]  # values, share of the seeds that succeeded


def reference_of(choices: Sequence[Choice]) -> Reference | None:
    """The robust optimum's mean loss over fresh seeds if it was rerun, else over its own, and the limit 10% above it; None if
    nothing finished."""
    best = choices[0] if choices else None
    loss = None if best is None else best.loss if best.fresh is None else best.fresh
    return None if best is None or loss is None else Reference(loss, loss * (1 + MARGIN), best.values, best.seeds)


def find_reference(rows: Sequence[Row], axes: Sequence[Axis], finals: Sequence[Row] = ()) -> Reference | None:
    """`reference_of` the rows' candidates; finals: trials of the finalists on fresh seeds."""
    return reference_of(settled(candidates(rows, axes), finals))


def label(row: Row, limit: float | None) -> bool | None:
    """Whether the trial succeeded; None if it has no label (pruned, killed, error). Without a limit nothing finished."""
    if finished(row):
        return row.loss is not None and limit is not None and row.loss <= limit
    return False if row.kind in FAILED else None


def labelled_points(rows: Sequence[Row], limit: float | None) -> Points:
    """Each point with a label once, in the order of their numbers: its values and the share of its seeds that succeeded."""
    grouped: dict[int, list[bool]] = defaultdict(list)
    values = {}
    for row in rows:
        if (success := label(row, limit)) is not None:
            grouped[row.point].append(success)
            values[row.point] = row.values
    return [(values[point], sum(grouped[point]) / len(grouped[point])) for point in sorted(grouped)]


def count(rows: Sequence[Row], limit: float | None) -> Counts:
    """The trials by what became of them."""
    labels = [label(row, limit) for row in rows]
    by_kind = Counter(row.kind for row in rows)
    pruned = by_kind.get("pruned", 0)
    labelled = sum(one is not None for one in labels)
    return Counts(
        trials=len(rows),
        points=len({row.point for row in rows}),
        labelled=labelled,
        successes=sum(one is True for one in labels),
        recipes=_share_of([success for _, success in labelled_points(rows, limit)]),
        pruned=pruned,
        excluded=len(rows) - labelled - pruned,
        by_kind=dict(sorted(by_kind.items())),
    )


def failures(rows: Sequence[Row], limit: float | None) -> list[Failure]:
    """The failure map: every trial that failed, with its kind; `behind` for one that finished with too high a loss."""
    return [
        Failure(
            point=row.point,
            seed=row.seed,
            values=row.values,
            kind="behind" if finished(row) else row.kind,
            modality=row.modality,
            layer=row.layer,
            step=row.step,
            loss=row.loss,
            evidence=row.evidence,
        )
        for row in rows
        if label(row, limit) is False
    ]


def share(hits: float, n: float) -> Share:
    """`hits` of `n` with Jeffreys' 95% interval (Beta(hits + 1/2, n - hits + 1/2), from 0 and up to 1 at the ends).

    >>> one = share(5, 5)
    >>> one.probability, round(one.lower, 3), one.upper
    (1.0, 0.621, 1.0)
    """
    if n <= 0:
        return Share(0.0, 0.0, None, 0.0, 1.0)
    from scipy import stats  # a second to import

    hits = min(max(hits, 0.0), n)
    lower, upper = (float(stats.beta.ppf(q, hits + 0.5, n - hits + 0.5)) for q in (0.025, 0.975))
    return Share(hits, n, hits / n, 0.0 if hits == 0 else lower, 1.0 if hits == n else upper)


def curve(axis: Axis, points: Points) -> Curve:
    """P(success) along one axis, over the other parameters as they were tried; points without a value for it are left out."""
    there = [(axis.place(values), success) for values, success in points]
    there = [(unit, success) for unit, success in there if not math.isnan(unit)]
    bins = _fill(_bins(axis, [unit for unit, _ in there], min(MOST_BINS, max(1, len(there) // PER_BIN))), axis, there)
    return Curve(axis.name, bins, [] if axis.choices is not None or not there else _smooth(axis, there))


def pair(first: Axis, second: Axis, points: Points) -> Pair:
    """P(success) by two axes: a grid of choices, or of three bins of equally many points along a range."""
    there = [(first.unit(v.get(first.name)), second.unit(v.get(second.name)), success) for v, success in points]
    there = [one for one in there if not (math.isnan(one[0]) or math.isnan(one[1]))]
    rows_of = _bins(first, [one[0] for one in there], PAIR_BINS)
    columns_of = _bins(second, [one[1] for one in there], PAIR_BINS)
    cells = [
        [_share_of([s for a, b, s in there if _inside(x, first, a) and _inside(y, second, b)]) for y in columns_of]
        for x in rows_of
    ]
    first_bins = _fill(rows_of, first, [(a, s) for a, _, s in there])
    return Pair(first.name, second.name, first_bins, _fill(columns_of, second, [(b, s) for _, b, s in there]), cells)


def _smooth(axis: Axis, there: list[tuple[float, float]]) -> list[Sample]:
    """Mean of the neighbours' success under a normal kernel; its interval is Jeffreys' at their effective number."""
    unit_N, success_N = (np.array(column) for column in zip(*there, strict=True))
    samples = []
    for at in np.linspace(0, 1, PLACES):
        weight_N = np.exp(-0.5 * ((unit_N - at) / WIDTH) ** 2)
        total = float(weight_N.sum())
        n = min(1.0, total) * total**2 / float(weight_N @ weight_N) if total > 1e-9 else 0.0  # far from all: less than one
        hits = n * float(weight_N @ success_N) / total if n > 0 else 0.0
        samples.append(Sample(float(axis.value(float(at))), share(hits, n)))
    return samples


def _bins(axis: Axis, units: list[float], wanted: int) -> list[tuple[float, float]]:
    """Bounds in the unit cube: one per choice, or quantiles of the units, closed on the left (the last one on both sides)."""
    if axis.choices is not None:
        return [(axis.unit(choice), axis.unit(choice)) for choice in axis.choices]
    if not units:
        return []
    edges = np.unique(np.quantile(units, np.linspace(0, 1, wanted + 1))).tolist()
    if len(edges) < 2:
        return [(edges[0], edges[0])]
    return list(zip(edges[:-1], [*edges[1:-1], math.nextafter(edges[-1], math.inf)], strict=True))


def _inside(bounds: tuple[float, float], axis: Axis, unit: float) -> bool:
    return unit == bounds[0] if axis.choices is not None or bounds[0] == bounds[1] else bounds[0] <= unit < bounds[1]


def _fill(bounds: list[tuple[float, float]], axis: Axis, there: list[tuple[float, float]]) -> list[Bin]:
    filled = []
    for one in bounds:
        inside = _share_of([success for unit, success in there if _inside(one, axis, unit)])
        choice = axis.value(one[0]) if axis.choices is not None else None
        low, high = (None, None) if axis.choices is not None else (float(axis.value(one[0])), float(axis.value(one[1])))
        filled.append(Bin(choice, low, high, inside))
    return filled


def _share_of(successes: list[float]) -> Share:
    return share(math.fsum(successes), len(successes))
