"""The measurement behind the default radius, on a few pictures."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from picturekit import photo

from benchmarks.duplicates import COPIES, RADII, measured, pairs


def images() -> Iterator[bytes]:
    for seed in (*range(12), 0):
        content = io.BytesIO()
        photo(seed).save(content, "PNG")
        yield content.getvalue()


def test_copies_are_found_and_pairs_are_counted_once() -> None:
    first, *copies, last = measured(images())
    assert first == "13 pictures, 100.0% with a hash"
    assert copies == [f"  {name}: " + ", ".join(f"100.0% within {radius} bits" for radius in RADII) for name in COPIES]
    assert last == "  pairs: " + ", ".join(f"1 within {radius} bits" for radius in RADII)


def test_a_pair_is_one_pair() -> None:
    assert pairs(np.array([1, 3, 2**63, 1], np.uint64), 1) == 3
