"""Differences at equal points, by hand."""

from __future__ import annotations

import math

import pytest
from tablekit import LR, row

from limoe.sweep.paired import differences, gaps

CHANCE = math.log(256)


def test_trials_are_paired_by_values_and_seed() -> None:
    first = [
        row(0, loss=3.5),
        row(0, loss=3.1, seed=1),
        row(1, "diverged", None, lr=5e-3),
        row(2, loss=9.0, lr=7e-3),  # the other has no such point
        row(3, "pruned", 4.0, lr=8e-3),
        row(0, loss=1.0, seed=1000, phase="final"),
    ]
    second = [
        row(4, loss=3.0),  # the same values under another number
        row(4, loss=3.2, seed=1),
        row(5, loss=4.0, lr=5e-3),
        row(6, loss=4.0, lr=8e-3),
        row(4, loss=9.0, seed=1000, phase="final"),
    ]
    found = differences(first, second)
    assert [gap for _, gap in found] == pytest.approx([0.5, -0.1, CHANCE - 4.0])
    assert [values["train.lr"] for values, _ in found] == [1e-3, 1e-3, 5e-3]


def test_means_intervals_and_ranks_by_thirds_of_an_axis() -> None:
    low, middle = 2e-4, 1e-3  # of 1e-4 to 1e-2 by its logarithm
    pairs = [({"train.lr": low}, gap) for gap in (0.1, 0.2, 0.3, 0.4, 0.5)] + [({"train.lr": middle}, -0.1)]
    every, first, second = gaps(pairs, LR)
    assert (every.where, every.n, every.worse) == ("everywhere", 6, 5)
    assert every.mean == pytest.approx(1.4 / 6)
    assert (first.n, first.mean, first.middle, first.worse) == (5, pytest.approx(0.3), 0.3, 5)
    # t(0.975, 4) = 2.776, standard deviation sqrt(0.1 / 4) = 0.1581
    assert (first.low, first.high) == (pytest.approx(0.3 - 0.1963, abs=2e-4), pytest.approx(0.3 + 0.1963, abs=2e-4))
    assert first.p == pytest.approx(2 / 2**5)  # all five of one sign
    assert (second.n, second.low, second.p, second.worse) == (1, None, None, 0)
    assert "0.0001 to 0.000464" in first.where
    assert gaps([], LR) == []
