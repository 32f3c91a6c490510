"""Several trainings of each contestant: mean, spread, and whether one contestant is better than another, seeds paired.

What may be concluded: this test covers the luck of a training, which resampling test items cannot see; it takes the test items as
they are. Trainings of equal seed saw the same data in the same order, so their difference varies less than either score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from limoe.evals.compare import ALPHA, Interval


@dataclass(frozen=True)
class Spread:
    """Scores of n trainings: their mean and standard deviation (n - 1; None for a single one)."""

    mean: float
    deviation: float | None
    n: int

    @classmethod
    def of(cls, scores: Sequence[float]) -> Spread:
        """Of at least one score.

        >>> Spread.of([0.25, 0.75])
        Spread(mean=0.5, deviation=0.3535533905932738, n=2)
        """
        return cls(fmean(scores), stdev(scores) if len(scores) > 1 else None, len(scores))


@dataclass(frozen=True)
class PairedSeeds:
    """Student's paired t-test over n seeds: the mean difference, first minus second, its 95% interval and two-sided p."""

    difference: float
    interval: Interval
    p: float
    n: int


def paired_seeds(first: Sequence[float], second: Sequence[float]) -> PairedSeeds:
    """Of scores with equal seeds, two at least. Differences without any spread show nothing: with so few trainings that is a
    set too small to see one, and no certainty."""
    from scipy.stats import t

    differences = [a - b for a, b in zip(first, second, strict=True)]
    n, mean, deviation = len(differences), fmean(differences), stdev(differences)
    if deviation < 1e-12:
        return PairedSeeds(mean, Interval(-math.inf, math.inf), 1.0, n)
    error = deviation / math.sqrt(n)
    reach = float(t.ppf(1 - ALPHA / 2, n - 1)) * error
    return PairedSeeds(mean, Interval(mean - reach, mean + reach), 2 * float(t.sf(abs(mean) / error, n - 1)), n)
