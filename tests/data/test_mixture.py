"""Shares of a batch as numbers of rows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limoe.data.mixture import mixture_counts
from limoe.errors import UserError


@pytest.mark.parametrize(
    "mixture, batch, expected",
    [
        ({"a": 1.0}, 7, {"a": 7}),
        ({"a": 0.5, "b": 0.5}, 7, {"a": 4, "b": 3}),
        ({"a": 1, "b": 1, "c": 1}, 8, {"a": 3, "b": 3, "c": 2}),
        ({"a": 0.55, "b": 0.45, "c": 0.0}, 10, {"a": 6, "b": 4}),
        ({"a": 3, "b": 5}, 256, {"a": 96, "b": 160}),
    ],
)
def test_mixture_counts_by_hand(mixture: dict[str, float], batch: int, expected: dict[str, int]) -> None:
    assert mixture_counts(mixture, batch) == expected


@given(st.dictionaries(st.sampled_from("abcdef"), st.floats(0.05, 1), min_size=1), st.integers(200, 600))
def test_mixture_counts_sum_to_the_batch_and_stay_within_one_of_the_share(mixture: dict[str, float], batch: int) -> None:
    counts = mixture_counts(mixture, batch)
    assert sum(counts.values()) == batch
    for name, rows in counts.items():
        assert abs(rows - batch * mixture[name] / sum(mixture.values())) < 1


def test_a_share_below_one_row_is_refused() -> None:
    with pytest.raises(UserError, match=r"train.mixture.b = 0.001 is less than a row of a batch of 16"):
        mixture_counts({"a": 1, "b": 0.001}, 16)
