"""Rows that do not enter the set because their picture is in it already, or in a set that models are evaluated on.

Pictures are the same byte for byte, or nearly: within so many bits of their perceptual hashes (limoe/data/duplicates.py).

Axes: N rows of the set, K pictures of evaluation sets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limoe.config import DuplicateParams
from limoe.data import duplicates
from limoe.data.rows import Drops, Hashes, Rows, first_equal, halves

Mask = NDArray[np.bool_]
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Evaluated:
    """K pictures that models are evaluated on. names: as rejected rows name them. digests: hashes of their bytes, (K, 2).
    perceptual: (K,) uint64, empty where nearness is of no account."""

    names: Sequence[str]
    digests: Hashes
    perceptual: duplicates.Hashes

    @classmethod
    def of(cls, names: Sequence[str], digests: Iterable[str], perceptual: duplicates.Hashes) -> Evaluated:
        """digests: hex SHA-256."""
        return cls(names, halves(map(bytes.fromhex, digests)), perceptual)


def repeated_pictures(
    rows: Rows, kept_N: Mask, training: str, params: DuplicateParams, evaluated: Evaluated | None
) -> Iterator[Drops]:
    """What `params` drops of the rows `kept_N`; a row is dropped for one reason alone.

    First training rows that are evaluated. Then training rows that repeat a row of another split, so that it is never a test that
    shrinks for them; and, where all repeats go, every row that repeats an earlier one that stays, other splits before training.
    """
    if params.drop == "none":
        return
    left_N, trained_N = kept_N.copy(), rows.in_split(training)

    def drops(reason: str, found: tuple[Numbers, Numbers], names: Sequence[str] | None = None) -> Drops:
        order = np.argsort(found[0])
        left_N[found[0]] = False
        return Drops(reason, found[0][order], found[1][order], names)

    if evaluated is not None:
        yield drops("evaluated-picture", _equal_to(rows, np.flatnonzero(left_N & trained_N), evaluated), evaluated.names)
        if params.radius is not None:
            found = _near_to(rows, np.flatnonzero(left_N & trained_N), evaluated.perceptual, params.radius)
            yield drops("near-evaluated", found, evaluated.names)
    leaked = params.drop == "leaked"
    yield drops("duplicate-picture", _equal(rows, left_N, trained_N, leaked))
    if params.radius is not None:
        yield drops("near-duplicate", _near(rows, left_N, trained_N, leaked, params.radius))


def _equal_to(rows: Rows, mine: Numbers, evaluated: Evaluated) -> tuple[Numbers, Numbers]:
    """Those of `mine` whose bytes are evaluated, and which of the K pictures each is."""
    first = first_equal(np.concatenate([evaluated.digests, rows.pictures[mine]]))[len(evaluated.digests) :]
    known = first < len(evaluated.digests)
    return mine[known], first[known]


def _near_to(rows: Rows, mine: Numbers, others: duplicates.Hashes, radius: int) -> tuple[Numbers, Numbers]:
    """Those of `mine` that are near one of the others, and which."""
    first = duplicates.first_near(rows.perceptual[mine], others, radius)
    return mine[first >= 0], first[first >= 0]


def _equal(rows: Rows, left_N: Mask, trained_N: Mask, leaked: bool) -> tuple[Numbers, Numbers]:
    """Rows whose bytes an earlier one has, and that one; only training rows that repeat others, if `leaked`."""
    order = _held_out_first(left_N, trained_N)
    first = order[first_equal(rows.pictures[order])]
    repeated = first != order
    if leaked:
        repeated &= trained_N[order] & ~trained_N[first]
    return order[repeated], first[repeated]


def _near(rows: Rows, left_N: Mask, trained_N: Mask, leaked: bool, radius: int) -> tuple[Numbers, Numbers]:
    """Likewise of near ones."""
    if leaked:
        held_out = np.flatnonzero(left_N & ~trained_N)
        near, place = _near_to(rows, np.flatnonzero(left_N & trained_N), rows.perceptual[held_out], radius)
        return near, held_out[place]
    order = _held_out_first(left_N, trained_N)
    first = duplicates.repeats(rows.perceptual[order], radius)
    return order[first >= 0], order[first[first >= 0]]


def _held_out_first(left_N: Mask, trained_N: Mask) -> Numbers:
    """The rows that are left: those of other splits, then the training rows."""
    return np.concatenate([np.flatnonzero(left_N & ~trained_N), np.flatnonzero(left_N & trained_N)])
