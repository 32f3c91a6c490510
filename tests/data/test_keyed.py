"""Keyed permutations are permutations, look random, and cost the same whatever their size."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from limoe.data import keyed
from limoe.data.keyed import CAPTION, ORDER, Permutation, mix, stream, uniform

KEYS = st.lists(st.integers(0, 2**64 - 1), max_size=3)


def pearson(counts: np.ndarray) -> float:
    """Pearson's statistic of cells that should be equally full."""
    return float(((counts - counts.mean()) ** 2 / counts.mean()).sum())


def improbable(statistic: float, freedom: int) -> bool:
    """Whether chance exceeds it less than once in a million times."""
    return bool(chi2.sf(statistic, freedom) < 1e-6)


@given(st.integers(1, 5000), st.integers(0, 2**32), KEYS)
@settings(max_examples=200, deadline=None)
def test_every_size_and_key_gives_a_bijection(size: int, seed: int, keys: list[int]) -> None:
    assert sorted(Permutation(size, seed, ORDER, *keys)(np.arange(size)).tolist()) == list(range(size))


@given(st.integers(1, 2**61), st.data())
@settings(max_examples=100, deadline=None)
def test_of_any_size_indices_stay_inside_and_apart_and_alone_are_what_they_are_together(size: int, data: st.DataObject) -> None:
    index_I = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20, unique=True)))
    shuffled = Permutation(size, 0, ORDER)
    together = shuffled(index_I)
    assert together.min() >= 0
    assert together.max() < size
    assert len(set(together.tolist())) == len(index_I)
    assert [int(shuffled(index_I[i : i + 1])[0]) for i in range(len(index_I))] == together.tolist()


def test_four_things_take_all_their_orders_equally_often() -> None:
    found = Counter(tuple(Permutation(4, seed, ORDER)(np.arange(4)).tolist()) for seed in range(4800))
    assert set(found) == set(itertools.permutations(range(4)))
    assert not improbable(pearson(np.array(list(found.values()))), 23)


@pytest.mark.parametrize("size", [7, 10, 64])
def test_every_index_goes_everywhere_equally_often_and_so_do_neighbours(size: int) -> None:
    places = np.zeros((size, size))
    steps = np.zeros(size)
    for seed in range(2000):
        value_I = Permutation(size, seed, ORDER)(np.arange(size))
        places[np.arange(size), value_I] += 1
        steps[(value_I[1] - value_I[0]) % size] += 1
    # Rows and columns both sum to the number of seeds: (size - 1)^2 degrees of freedom, and size (size - 1) expected of the sum.
    assert not improbable(pearson(places) * (size - 1) / size, (size - 1) ** 2)
    assert steps[0] == 0
    assert not improbable(pearson(steps[1:]), size - 2)


def test_a_large_one_leaves_no_order_behind() -> None:
    index_I = np.arange(20_000)
    value_I = Permutation(10_000_000, 3, ORDER)(index_I)
    assert abs(np.corrcoef(index_I, value_I)[0, 1]) < 0.036  # five standard deviations
    assert abs(np.corrcoef(value_I[1:], value_I[:-1])[0, 1]) < 0.036
    assert not improbable(pearson(np.histogram(value_I, 100, (0, 10_000_000))[0]), 99)


def test_an_index_costs_the_same_whatever_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    mixed = 0

    def counted(value_I: np.ndarray) -> np.ndarray:
        nonlocal mixed
        mixed += len(value_I)
        return mix(value_I)

    monkeypatch.setattr(keyed, "mix", counted)
    for size in (300, 10_000_000, 2**60):
        mixed = 0
        Permutation(size, 0, ORDER)(np.arange(200))
        assert mixed <= 200 * keyed.ROUNDS * 1.2, size  # a fifth more for those that walk


def test_uniform_numbers_fill_the_unit_interval_and_differ_by_index_epoch_seed_and_key() -> None:
    index_I, epoch_I = (grid.ravel() for grid in np.meshgrid(np.arange(500), np.arange(20)))
    values = uniform(index_I, epoch_I, 0, CAPTION)
    assert values.min() >= 0
    assert values.max() < 1
    assert not improbable(pearson(np.histogram(values, 50, (0, 1))[0]), 49)
    first, second = values.reshape(20, 500)[:2]
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(500)
    others = [
        uniform(index_I, epoch_I, 1, CAPTION),
        uniform(index_I, epoch_I, 0, CAPTION, 0),
        uniform(index_I, epoch_I, 0, ORDER),
    ]
    assert len({*values, *np.concatenate(others)}) == 4 * len(values)
    assert np.array_equal(uniform(index_I[7:9], epoch_I[7:9], 0, CAPTION), values[7:9])


def test_random_streams_differ_by_purpose_and_key() -> None:
    draws = {stream(*keys).integers(2**60) for keys in [(0, 0, 1), (0, 1, 1), (0, 0, 2), (1, 0, 1), (0, 1, 0)]}
    assert len(draws) == 5
