"""How sure a score is, and whether one model is better than another on the same items.

What may be concluded: intervals and tests cover the choice of test items, not the luck of a training run. Two trainings with
other seeds differ too, and with one seed each nothing here can see it.

Items that belong together (the skin tones of one concept) are hit or missed together, so whole groups are resampled, and whole
groups change sides in the paired test. McNemar's test, which takes items as independent, would find differences there where there
are none. Where each group holds one item, items are independent, and McNemar's exact test is used: the sign flips of such groups
are the same test by sampling. Values between 0 and 1 (a share of several draws) are flipped too: McNemar's counts hits alone.

Items may count unequally: in a mean per class each has a weight, 1 / (pictures of its class) scaled to 1 on average, and its
value holds it. A resample's score is then a ratio estimator, the sum of its values over that of its weights: it lies between 0
and 1, and is the plain mean where all classes have one size. It is not the mean over the classes that a resample holds: that
counts a picture which is alone in its class once, however often it is drawn, and of 300 such pictures its 95% intervals covered
83%, those of ratios 95%. Ratios take the sizes of classes as drawn, so that they cover rather more where classes differ much. A
class of a few pictures that are all hit is taken for one that always is, by either.

Axes: N items, G groups, C columns of values, R resamples or sign patterns, B bins.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

ALPHA = 0.05
MCNEMAR, SIGN_FLIPS = "McNemar", "sign flips"
BLOCK_VALUES = 1 << 22
SIGNS = 1  # added to a resampler's seed: signs are drawn apart from resamples
ROUNDING = 1e-9  # sums of equal size may differ by this
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A 95% interval."""

    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside."""
        return self.low > 0 or self.high < 0


class Resampler:
    """Bootstrap and sign flips of one set's items by whole groups; the same resamples for whatever is measured on them, so that
    models pair up.

    groups: each item's group. name: with `seed`, what the resampling follows from: one set more changes no other's interval.
    """

    def __init__(self, groups: Sequence[str], resamples: int, seed: int, name: str) -> None:
        names, self._group_N = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
        self.groups, self._resamples = len(names), resamples
        self._seed = [seed, zlib.crc32(name.encode())]

    def sums(self, values_NC: Array) -> tuple[Array, Array]:
        """(sums_RC, counts_R): the values summed over each resample's items, and how many items it holds."""
        columns_GC = np.zeros((self.groups, values_NC.shape[1] + 1))
        np.add.at(columns_GC, self._group_N, np.column_stack([values_NC, np.ones(len(values_NC))]))
        generator = np.random.default_rng(self._seed)
        block = max(1, BLOCK_VALUES // self.groups)
        pieces = []
        for start in range(0, self._resamples, block):
            rows = min(block, self._resamples - start)
            drawn = generator.integers(self.groups, size=(rows, self.groups)) + self.groups * np.arange(rows)[:, None]
            counts_RG = np.bincount(drawn.ravel(), minlength=rows * self.groups).reshape(rows, self.groups)
            pieces.append(counts_RG.astype(np.float64) @ columns_GC)
        sums_RC: Array = np.concatenate(pieces)
        return sums_RC[:, :-1], sums_RC[:, -1]

    def means(self, values_NC: Array, weights_NC: Array | None = None) -> Array:
        """(R, C): each resample's means: the sums of values over those of weights, which are 1 by default."""
        if weights_NC is None:
            weights_NC = np.ones_like(values_NC)
        sums_RC, _ = self.sums(np.column_stack([values_NC, weights_NC]))
        values_RC, weights_RC = np.hsplit(sums_RC, 2)
        means_RC: Array = values_RC / weights_RC
        return means_RC

    @property
    def single(self) -> bool:
        """Whether each group holds one item."""
        return self.groups == len(self._group_N)

    def sign_flip(self, difference_N: Array) -> float:
        """Two-sided p-value of a paired permutation test: under no difference between two models each group's difference could as
        well have had the other sign. The share of sign patterns whose sum is at least as far from 0 as the one seen; with the
        seen one among them (Phipson and Smyth 2010), so that it is never below 1 / (R + 1)."""
        sums_G = np.bincount(self._group_N, weights=difference_N, minlength=self.groups)
        sums_G = sums_G[sums_G != 0]
        if not len(sums_G):
            return 1.0
        generator = np.random.default_rng([*self._seed, SIGNS])
        block = max(1, BLOCK_VALUES // len(sums_G))
        seen, as_far = abs(float(sums_G.sum())) - ROUNDING, 0
        for start in range(0, self._resamples, block):
            rows = min(block, self._resamples - start)
            signs_RG = 2.0 * generator.integers(0, 2, (rows, len(sums_G))) - 1
            as_far += int((np.abs(signs_RG @ sums_G) >= seen).sum())
        return (1 + as_far) / (1 + self._resamples)


def mean_intervals(values_NC: Array, resampler: Resampler, weights_NC: Array | None = None) -> list[Interval]:
    """Percentile interval of each column's mean; a hit is worth its weight, which is 1 by default. Where every item is missed, or
    every one hit, resampling sees no spread: there the exact (Clopper-Pearson) bound on a share is given, with each group as one
    trial."""
    if weights_NC is None:
        weights_NC = np.ones_like(values_NC)
    lows, highs = np.quantile(resampler.means(values_NC, weights_NC), [ALPHA / 2, 1 - ALPHA / 2], axis=0)
    margin = 1 - (ALPHA / 2) ** (1 / resampler.groups)
    found = []
    for column_N, weight_N, low, high in zip(values_NC.T, weights_NC.T, lows, highs, strict=True):
        if not column_N.any():
            low, high = 0.0, margin
        elif (column_N == weight_N).all():
            low, high = 1 - margin, 1.0
        found.append(Interval(float(low), float(high)))
    return found


def calibration_error(confidence_N: Array, hit_N: Array, bins: int) -> float:
    """Expected calibration error: over equal bins of confidence, the mean distance of confidence from the share of hits (0..1).

    >>> round(calibration_error(np.array([0.9, 0.8, 0.3]), np.array([1.0, 0.0, 0.0]), 2), 4)
    0.3333
    """
    gaps_NB = _binned_gaps(confidence_N, hit_N, bins)
    return float(np.abs(gaps_NB.sum(0)).sum()) / len(confidence_N)


def calibration_interval(confidence_N: Array, hit_N: Array, bins: int, resampler: Resampler) -> Interval:
    """Interval of `calibration_error`. An absolute value grows with noise, so resamples sit too high: they are moved down by as
    much as their mean exceeds the error itself, and end at 0."""
    sums_RB, counts_R = resampler.sums(_binned_gaps(confidence_N, hit_N, bins))
    errors_R = np.abs(sums_RB).sum(1) / counts_R
    shift = float(np.mean(errors_R)) - calibration_error(confidence_N, hit_N, bins)
    low, high = np.quantile(errors_R - shift, [ALPHA / 2, 1 - ALPHA / 2])
    return Interval(max(0.0, float(low)), float(high))


def _binned_gaps(confidence_N: Array, hit_N: Array, bins: int) -> Array:
    """(N, B): confidence minus hit, in the column of the item's bin."""
    bin_N = np.clip(np.digitize(confidence_N, np.linspace(0, 1, bins + 1)) - 1, 0, bins - 1)
    gaps_NB = np.zeros((len(confidence_N), bins))
    gaps_NB[np.arange(len(confidence_N)), bin_N] = confidence_N - hit_N
    return gaps_NB


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: the chance of any false finding among all of them stays below the level that each is held to.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, floor = [0.0] * len(p_values), 0.0
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    for step, index in enumerate(order):
        floor = max(floor, min(1.0, p_values[index] * (len(p_values) - step)))
        adjusted[index] = floor
    return adjusted


def verdict(difference: float, interval: Interval, p_holm: float) -> str:
    """`better` or `worse` only if the adjusted p and the interval of the difference both say so; else `no difference shown`."""
    if p_holm >= ALPHA or not interval.excludes_zero:
        return "no difference shown"
    return "better" if difference > 0 else "worse"


@dataclass(frozen=True)
class Paired:
    """One model against another on the same N items. difference and interval: of the share of hits, first minus second (-1..1).
    wins, losses: items that only the first, only the second hits (more often). p: of `test`. p_holm: p adjusted for its family.
    test: MCNEMAR where each group holds one item and every value is 0 or 1, else SIGN_FLIPS."""

    difference: float
    interval: Interval
    wins: int
    losses: int
    n: int
    p: float
    p_holm: float
    test: str

    @property
    def verdict(self) -> str:
        """Of the adjusted test and the interval."""
        return verdict(self.difference, self.interval, self.p_holm)


def paired(first_N: Array, second_N: Array, resampler: Resampler, weight_N: Array | None = None) -> Paired:
    """The comparison of two models' hits (0 to 1, or to an item's weight) on the same items; p_holm is p until `adjust` sees the
    family."""
    interval = _difference_interval(first_N - second_N, resampler, weight_N)
    wins, losses = int((first_N > second_N).sum()), int((first_N < second_N).sum())
    exact = resampler.single and bool(np.isin([first_N, second_N], [0, 1]).all())
    test, p = (MCNEMAR, mcnemar(wins, losses)) if exact else (SIGN_FLIPS, resampler.sign_flip(first_N - second_N))
    return Paired(float((first_N - second_N).mean()), interval, wins, losses, len(first_N), p, p, test)


def mcnemar(wins: int, losses: int) -> float:
    """Two-sided p-value of McNemar's exact test: how often a fair coin that is thrown for each item which one model alone hits
    falls at least as unevenly.

    >>> mcnemar(9, 1), mcnemar(0, 0)
    (0.021484375, 1.0)
    """
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(wins, losses), wins + losses, 0.5))) if wins != losses else 1.0


def _difference_interval(difference_N: Array, resampler: Resampler, weight_N: Array | None) -> Interval:
    weights_NC = None if weight_N is None else weight_N[:, None]
    low, high = np.quantile(resampler.means(difference_N[:, None], weights_NC)[:, 0], [ALPHA / 2, 1 - ALPHA / 2])
    return Interval(float(low), float(high))


def adjust(family: Sequence[Paired]) -> list[Paired]:
    """The same comparisons with Holm's adjustment over all of them."""
    adjusted = holm([test.p for test in family])
    return [replace(test, p_holm=p) for test, p in zip(family, adjusted, strict=True)]
