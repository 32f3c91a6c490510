"""`train.mixture`: how many rows of a batch each source has, and which rows are whose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from limoe.errors import UserError


def mixture_counts(mixture: Mapping[str, float], batch: int) -> dict[str, int]:
    """Rows of a batch by source, in the order of `mixture`: shares normalised, largest remainders rounded up (ties: the first).

    Sources of share 0 are left out; UserError if a positive share is too small for a single row.

    >>> mixture_counts({"a": 2, "b": 1, "c": 0}, 8)
    {'a': 5, 'b': 3}
    """
    shares = {name: share for name, share in mixture.items() if share > 0}
    exact = {name: batch * share / sum(shares.values()) for name, share in shares.items()}
    counts = {name: int(rows) for name, rows in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: batch - sum(counts.values())]:
        counts[name] += 1
    for name, rows in counts.items():
        if rows == 0:
            raise UserError(
                f"train.mixture.{name} = {mixture[name]} is less than a row of a batch of {batch}; set it to 0 or higher"
            )
    return counts


def source_rows(sources_R: Sequence[str], names: Sequence[str]) -> list[NDArray[np.int64]]:
    """For each of `names` the rows of that source; UserError if there are none, naming the sources there are."""
    check_known(names, sources_R)
    source_R = np.array(sources_R, dtype=object)
    return [np.flatnonzero(source_R == name) for name in names]


def check_known(names: Iterable[str], there: Iterable[str]) -> None:
    """UserError unless there are training rows of each of these sources, naming those there are."""
    known = sorted(set(there))
    for name in names:
        if name not in known:
            found = ", ".join(known) or "none"
            raise UserError(f"train.mixture.{name}: the prepared set has no training rows of that source; it has some of {found}")
