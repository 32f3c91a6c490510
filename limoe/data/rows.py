"""What is known of every row while a set is put together: 34 to 42 bytes a row in arrays, never its picture or its captions.

Axes: N rows of all parts in the order of the set, P parts, D rows that are dropped, 2 halves of a hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]  # (N, 2): 128 bits, so equal hashes are equal keys or pictures
HASH_BYTES = 16


@dataclass(frozen=True)
class Rows:
    """N rows that passed the checks.

    starts: (P + 1,) number of each part's first row, at last N. keys, pictures: hashes. split: (N,) uint16, which of `splits`.
    perceptual: (N,) uint64 hashes of what pictures look like, empty where they are of no account.
    """

    starts: NDArray[np.int64]
    keys: Hashes
    pictures: Hashes
    split: NDArray[np.uint16]
    splits: Sequence[str]
    perceptual: NDArray[np.uint64]

    @classmethod
    def read(cls, records: Sequence[Path], counts: Sequence[int], hashes: Sequence[Path] = ()) -> Rows:
        """From each part's file of records, which holds so many rows, and of perceptual hashes, if there are any."""
        starts = np.cumsum([0, *counts], dtype=np.int64)
        keys, pictures = (np.empty((starts[-1], 2), np.uint64) for _ in range(2))
        split = np.empty(starts[-1], np.uint16)
        splits: dict[str, int] = {}
        for number, path in enumerate(records):
            own = slice(starts[number], starts[number + 1])
            table = pq.read_table(path, columns=["key", "split", "sha256"], partitioning=None)
            digests = (hashlib.sha256(key.encode()).digest() for key in table["key"].to_pylist())
            keys[own] = halves(digests)
            pictures[own] = halves(map(bytes.fromhex, table["sha256"].to_pylist()))
            split[own] = [splits.setdefault(name, len(splits)) for name in table["split"].to_pylist()]
        perceptual = [pq.read_table(path, partitioning=None)["hash"].to_numpy() for path in hashes]
        return cls(starts, keys, pictures, split, list(splits), np.concatenate([np.empty(0, np.uint64), *perceptual]))

    def in_split(self, name: str) -> NDArray[np.bool_]:
        """(N,) whether a row is in this split."""
        return self.split == self.splits.index(name) if name in self.splits else np.zeros(len(self.split), np.bool_)

    def by_part(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Rows in ascending order as (part, numbers within it)."""
        if len(rows):
            parts, firsts = np.unique(np.searchsorted(self.starts, rows, side="right") - 1, return_index=True)
            for part, own in zip(parts.tolist(), np.split(rows, firsts[1:]), strict=True):
                yield part, own - self.starts[part]


@dataclass(frozen=True)
class Drops:
    """D rows that passed the checks, and do not enter the set because of another one.

    rows: ascending. others: of each, the row because of which; or, with `names`, which of these. reason: as in sources.Rejected.
    """

    reason: str
    rows: NDArray[np.int64]
    others: NDArray[np.int64]
    names: Sequence[str] | None = None

    def between(self, start: int, stop: int) -> list[tuple[int, int]]:
        """(row, other) of the rows from `start` to before `stop`."""
        first, last = np.searchsorted(self.rows, (start, stop))
        return list(zip(self.rows[first:last].tolist(), self.others[first:last].tolist(), strict=True))


def repeated_keys(rows: Rows) -> Drops:
    """Rows whose key an earlier one has: that one stays."""
    first = first_equal(rows.keys)
    repeated = np.flatnonzero(first != np.arange(len(first)))
    return Drops("duplicate-key", repeated, first[repeated])


def first_equal(hashes: Hashes) -> NDArray[np.int64]:
    """(N,) for each row the first one with the same hash: itself, or an earlier one.

    >>> first_equal(np.array([[7, 1], [7, 2], [7, 1]], np.uint64)).tolist()
    [0, 1, 0]
    """
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))  # stable: equal hashes stay in the order of the rows
    ordered = hashes[order]
    begins = np.ones(len(order), np.bool_)
    begins[1:] = (ordered[1:] != ordered[:-1]).any(1)
    first = np.empty(len(order), np.int64)
    first[order] = order[begins][np.cumsum(begins) - 1]
    return first


def leakage(rows: Rows, kept: NDArray[np.bool_], training: str) -> dict[str, int]:
    """For each split but the training one, its kept rows whose picture is a training picture, byte for byte."""
    first = first_equal(rows.pictures)
    trained = np.zeros(len(first), np.bool_)
    trained[first[kept & rows.in_split(training)]] = True
    others = sorted(name for name in rows.splits if name != training and (kept & rows.in_split(name)).any())
    return {name: int((trained[first] & kept & rows.in_split(name)).sum()) for name in others}


def halves(digests: Iterable[bytes]) -> Hashes:
    """(N, 2) of N digests of 16 bytes or more."""
    return np.frombuffer(b"".join(digest[:HASH_BYTES] for digest in digests), np.uint64).reshape(-1, 2)
