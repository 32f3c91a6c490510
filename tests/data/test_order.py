"""An order yields each row once an epoch, window by window, and can be entered anywhere."""

from __future__ import annotations

from collections import Counter
from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limoe.data import keyed, order
from limoe.data.order import Order, Stretch

SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=30)


def walk(its: Order, start: int, stop: int, step: int) -> list[Stretch]:
    """The stretches from one position to another."""
    found = []
    while start < stop:
        found.append(its.stretch(start, min(step, stop - start)))
        start += len(found[-1].rows_I)
    return found


def rows_of(stretches: list[Stretch]) -> list[tuple[int, int]]:
    return [(its.epoch, row) for its in stretches for row in its.rows_I.tolist()]


@given(SIZES, st.integers(1, 60), st.integers(0, 3), st.integers(1, 40))
@settings(max_examples=100, deadline=None)
def test_each_epoch_yields_each_row_once(sizes: list[int], most: int, seed: int, step: int) -> None:
    total = sum(sizes)
    found = rows_of(walk(Order(sizes, most, seed, "a"), 0, 3 * total, step))
    for epoch in range(3):
        assert sorted(found[epoch * total : (epoch + 1) * total]) == [(epoch, row) for row in range(total)]


@given(SIZES, st.integers(1, 60), st.integers(0, 600), st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=100, deadline=None)
def test_it_is_the_same_wherever_and_in_whatever_steps_it_is_entered(
    sizes: list[int], most: int, start: int, step: int, other: int
) -> None:
    stop = start + 2 * sum(sizes)
    whole = rows_of(walk(Order(sizes, most, 5, "a"), 0, stop, other))
    assert rows_of(walk(Order(sizes, most, 5, "a"), start, stop, step)) == whole[start:]


@given(SIZES, st.integers(1, 60), st.integers(1, 40))
@settings(max_examples=100, deadline=None)
def test_windows_are_bounded_and_the_next_one_is_named_in_time(sizes: list[int], most: int, step: int) -> None:
    its = Order(sizes, most, 0, "a")
    first = np.cumsum(sizes) - sizes
    stretches = walk(its, 0, 4 * sum(sizes), step)
    for now, after in pairwise(stretches):
        assert sum(sizes[group] for group in now.groups) < most + max(sizes)
        assert {its.group_of(row)[0] for row in now.rows_I.tolist()} <= set(now.groups)
        assert [first[its.group_of(row)[0]] + its.group_of(row)[1] for row in now.rows_I.tolist()] == now.rows_I.tolist()
        if (after.epoch, after.groups) != (now.epoch, now.groups):
            assert now.soon == after.groups
        else:
            assert after.soon[: len(now.soon)] == now.soon


def test_a_source_that_fits_is_shuffled_as_a_whole_and_a_larger_one_in_windows_of_random_groups() -> None:
    whole = Order([10] * 100, 1000, 0, "a")
    rows = whole.stretch(0, 1000).rows_I
    assert abs(np.corrcoef(rows, np.arange(1000))[0, 1]) < 5 / np.sqrt(1000)
    assert len({row // 10 for row in rows[:100].tolist()}) > 50  # of 63 expected
    parts = Order([10] * 100, 200, 0, "a")
    groups = [its.groups for its in walk(parts, 0, 1000, 200)]
    assert [len(its) for its in groups] == [20] * 5
    assert sorted(chain.from_iterable(groups)) == list(range(100))
    assert all(its != sorted(its) for its in groups)


def test_epochs_seeds_and_sources_have_orders_of_their_own() -> None:
    def rows(seed: int, name: str, epoch: int, most: int = 1000) -> tuple[int, ...]:
        return tuple(Order([10] * 10, most, seed, name).stretch(100 * epoch, 100).rows_I.tolist())

    assert len({rows(0, "a", 0), rows(0, "a", 1), rows(1, "a", 0), rows(0, "b", 0)}) == 4
    assert rows(0, "a", 0, most=1000) == rows(0, "a", 0, most=100)


def test_windows_of_an_epoch_are_shuffled_each_in_its_own_way() -> None:
    its = Order([50] * 4, 100, 0, "a")
    one, two = (its.stretch(start, 100) for start in (0, 100))
    within = [[its.groups.index(row // 50) * 50 + row % 50 for row in its.rows_I.tolist()] for its in (one, two)]
    assert [sorted(places) for places in within] == [list(range(100))] * 2
    assert within[0] != within[1]


def test_what_a_batch_costs_does_not_grow_with_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Counter[int] = Counter()

    class Counted(keyed.Permutation):
        def __call__(self, index_I: np.ndarray) -> np.ndarray:
            asked[len(index_I)] += 1
            return super().__call__(index_I)

    monkeypatch.setattr(order, "Permutation", Counted)
    its = Order([2000] * 5000, 65_536, 0, "a")  # ten million rows
    assert its.rows == 10_000_000
    for batch in range(20):
        its.stretch(256 * batch, 256)
    assert asked == {5000: 1, 256: 20}  # row groups once an epoch, and the rows of the batches
