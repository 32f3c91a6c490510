"""Several trainings: their spread, and Student's paired test against scipy's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import ttest_rel

from limoe.evals.compare import verdict
from limoe.evals.seeds import Spread, paired_seeds


def test_a_spread_by_hand() -> None:
    assert Spread.of([0.1, 0.2, 0.6]) == Spread(pytest.approx(0.3), pytest.approx(math.sqrt(0.14 / 2)), 3)
    assert Spread.of([0.4]) == Spread(0.4, None, 1)


@pytest.mark.parametrize("n", [2, 3, 8])
def test_the_paired_test_is_scipys(n: int) -> None:
    first, second = np.random.default_rng(n).random((2, n))
    found, truth = paired_seeds(list(first), list(second)), ttest_rel(first, second)
    interval = truth.confidence_interval(0.95)
    assert (found.difference, found.p, found.n) == (pytest.approx((first - second).mean()), pytest.approx(truth.pvalue), n)
    assert (found.interval.low, found.interval.high) == (pytest.approx(interval.low), pytest.approx(interval.high))


def judged(found, p):
    return verdict(found.difference, found.interval, p)


def test_pairing_sees_what_seeds_share() -> None:
    luck = [0.10, 0.30, 0.50]
    found = paired_seeds([one + gain for one, gain in zip(luck, (0.05, 0.06, 0.055), strict=True)], luck)
    assert (judged(found, found.p), judged(found, 0.05)) == ("better", "no difference shown")
    worse = paired_seeds(luck, [one + gain for one, gain in zip(luck, (0.05, 0.06, 0.055), strict=True)])
    assert judged(worse, worse.p) == "worse"


def test_differences_without_spread_show_nothing() -> None:
    found = paired_seeds([0.5, 0.6], [0.4, 0.5])
    assert (found.p, judged(found, found.p)) == (1.0, "no difference shown")
