"""How far a token's expert in one layer tells its expert in the next: mutual information, normalised, without its bias.

Axes: A, B experts of the two layers, J sizes of a cell of their table.

I(A; B) of a sample is positive even where the layers have nothing to do with each other, the more so the fewer tokens there are
to a pair of experts. The corrected figure takes away what shuffling one layer's tokens gives in the mean, which is known exactly
(Vinh, Epps and Bailey 2010, "Information theoretic measures for clusterings comparison": the adjusted mutual information).
It is 0 for independent layers and 1 where each tells the other. Tokens of one sequence resemble each other, which no
correction of this kind sees.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def agreement(first_T: NDArray[np.int64], second_T: NDArray[np.int64], experts: int) -> tuple[float, float]:
    """(normalised, corrected) mutual information of two layers' first choices; E stands for no expert.

    normalised: I / ((H(A) + H(B)) / 2), 0..1. corrected: the same with the chance's share taken from both, at most 1. Both are 1
    where each layer uses one expert alone.
    """
    table_AB = np.bincount(first_T * (experts + 1) + second_T, minlength=(experts + 1) ** 2).reshape(experts + 1, -1)
    rows_A, columns_B = table_AB.sum(1), table_AB.sum(0)
    mean_entropy = (_entropy(rows_A) + _entropy(columns_B)) / 2
    if mean_entropy == 0:
        return 1.0, 1.0
    found = _entropy(rows_A) + _entropy(columns_B) - _entropy(table_AB.ravel())
    chance = chance_information(rows_A[rows_A > 0], columns_B[columns_B > 0])
    normalised = max(0.0, found / mean_entropy)
    room = mean_entropy - chance
    return normalised, (found - chance) / room if room > 1e-12 else 0.0


def _entropy(counts: NDArray[np.int64]) -> float:
    """Of the shares, in nats."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def chance_information(rows_A: NDArray[np.int64], columns_B: NDArray[np.int64]) -> float:
    """The mean mutual information, in nats, over all ways to pair tokens with these margins (all positive): each cell is
    hypergeometric."""
    total = int(rows_A.sum())
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, total + 1)))])
    return sum(_cell(int(a), int(b), total, log_factorial) for a in rows_A for b in columns_B)


def _cell(a: int, b: int, total: int, log_factorial: Floats) -> float:
    """The sum over sizes j of a cell of P(j) j/N log(N j / (a b))."""
    j = np.arange(max(1, a + b - total), min(a, b) + 1)
    fixed = log_factorial[[a, b, total - a, total - b]].sum() - log_factorial[total]
    moving = log_factorial[j] + log_factorial[a - j] + log_factorial[b - j] + log_factorial[total - a - b + j]
    return float((np.exp(fixed - moving) * j / total * np.log(total * j / (a * b))).sum())
