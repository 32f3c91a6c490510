"""Two sweeps at equal points: what one recipe loses against another where everything that was searched is the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev
from typing import Any

from scipy import stats

from limoe.sweep.axes import Axis
from limoe.sweep.robust import CHANCE, counts
from limoe.sweep.rows import SEARCH, Row

THIRDS = 3
FEWEST = 3  # pairs behind an interval


@dataclass(frozen=True)
class Gap:
    """Differences in loss over n pairs, in nats; positive: the first sweep's is worse. low, high: 95% interval of the mean
    (Student's t). worse: pairs in which the first is worse. p: Wilcoxon's signed ranks, two-sided. With fewer than three pairs
    there are neither interval nor p."""

    where: str
    n: int
    mean: float
    low: float | None
    high: float | None
    middle: float
    worse: int
    p: float | None


def differences(rows: Sequence[Row], others: Sequence[Row]) -> list[tuple[dict[str, Any], float]]:
    """(values, loss minus the other's) of each search trial whose values and seed the other sweep tried, too. A trial that failed
    without a loss is worth ln(B), as in limoe.sweep.robust."""
    known = {_key(row): row for row in others if row.phase == SEARCH and counts(row)}
    own = [row for row in rows if row.phase == SEARCH and counts(row)]
    return [(row.values, _loss(row) - _loss(known[_key(row)])) for row in own if _key(row) in known]


def gaps(pairs: Sequence[tuple[dict[str, Any], float]], axis: Axis | None) -> list[Gap]:
    """All pairs together, and those in each third of the axis, by its scale; empty without a pair."""
    if not pairs:
        return []
    found = [_gap("everywhere", [gap for _, gap in pairs])]
    if axis is None or axis.choices is not None:
        return found
    for third in range(THIRDS):
        inside = [gap for values, gap in pairs if min(THIRDS - 1, int(axis.unit(values[axis.name]) * THIRDS)) == third]
        low, high = (float(axis.value(edge / THIRDS)) for edge in (third, third + 1))
        found += [_gap(f"`{axis.name}` {low:.3g} to {high:.3g}", inside)] if inside else []
    return found


def _gap(where: str, losses: Sequence[float]) -> Gap:
    n, mean = len(losses), fmean(losses)
    low = high = p = None
    if n >= FEWEST:
        reach = float(stats.t.ppf(0.975, n - 1)) * stdev(losses) / math.sqrt(n)
        low, high = mean - reach, mean + reach
        p = float(stats.wilcoxon(losses).pvalue) if any(losses) else 1.0
    return Gap(where, n, mean, low, high, median(losses), sum(loss > 0 for loss in losses), p)


def _loss(row: Row) -> float:
    return CHANCE if row.loss is None else row.loss


def _key(row: Row) -> tuple[Any, ...]:
    return row.seed, *sorted((name, str(value)) for name, value in row.values.items())
