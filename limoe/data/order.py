"""The order of one source's rows, epoch after epoch, computed where it is needed and never listed.

Axes: G row groups, I positions in the order, W windows of an epoch.

Reading single rows at random from a disk is slow, and a list of all rows grows with the set. So an epoch is a keyed permutation
of the row groups, cut into windows of about `most` rows, and within a window a keyed permutation of its rows: any two rows of a
window may meet, and only its groups are in memory. A source of at most `most` rows is one window, and its order a full shuffle.
What grows with the set is a few numbers a row group, of thousands of rows.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from limoe.data.keyed import GROUPS, ORDER, Permutation


class Stretch(NamedTuple):
    """Consecutive positions of an order, within one window.

    rows_I: indices of rows in the source. groups: those that the window is made of. soon: the first ones of the next window, as
    large a share of them as the stretch's end is of this window.
    """

    epoch: int
    rows_I: NDArray[np.int64]
    groups: list[int]
    soon: list[int]


class Plan(NamedTuple):
    """An epoch: its groups in order, where in the epoch each ends (rows), the first group of each window, and the end of all."""

    groups_G: NDArray[np.int64]
    ends_G: NDArray[np.int64]
    cuts_W: NDArray[np.int64]

    def window(self, number: int) -> tuple[list[int], int, int]:
        """(groups, first position, position after the last) of a window."""
        first, last = self.cuts_W[number : number + 2]
        return self.groups_G[first:last].tolist(), int(self.ends_G[first - 1]) if first else 0, int(self.ends_G[last - 1])


class Order:
    """A new order of all rows each epoch, a function of (seed, name of the source, epoch)."""

    def __init__(self, sizes_G: Sequence[int], most: int, seed: int, name: str) -> None:
        """sizes_G: rows of each group, which are numbered in this order. most: rows a window, to within a row group."""
        self._sizes_G = np.asarray(sizes_G, dtype=np.int64)
        self._first_G = np.cumsum(self._sizes_G) - self._sizes_G
        self._firsts: list[int] = self._first_G.tolist()  # the same: for one row at a time a list is ten times as fast
        self.rows = int(self._sizes_G.sum())
        self.key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
        self.whole = self.rows <= most or len(self._sizes_G) == 1  # whether each epoch is one window
        self.largest = (
            self.rows if self.whole else min(self.rows, most + int(self._sizes_G.max()))
        )  # that a window may have, rows
        self._windows, self._seed = -(-self.rows // most), seed
        self._plan = lru_cache(maxsize=2)(self._draw)

    def stretch(self, drawn: int, most: int) -> Stretch:
        """At most `most` rows, at least one: those that come when `drawn` have come since the start of the first epoch."""
        epoch, position = divmod(drawn, self.rows)
        plan = self._plan(epoch)
        number = int(np.searchsorted(plan.ends_G[plan.cuts_W[1:] - 1], position, "right"))
        groups, start, end = plan.window(number)
        stop = min(position + most, end)
        shuffle = Permutation(end - start, self._seed, ORDER, self.key, epoch, number)
        place_I = start + shuffle(np.arange(position - start, stop - start))
        last = number + 2 == len(plan.cuts_W)
        following = (self._plan(epoch + 1).window(0) if last else plan.window(number + 1))[0]
        soon = following[: -(-len(following) * (stop - start) // (end - start))]
        return Stretch(epoch, self._rows_at(plan, place_I), groups, soon)

    def group_of(self, row: int) -> tuple[int, int]:
        """(group, index within it) of a row of the source."""
        group = bisect_right(self._firsts, row) - 1
        return group, row - self._firsts[group]

    def _rows_at(self, plan: Plan, place_I: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows that stand at these places of the epoch before windows are shuffled."""
        where_I = np.searchsorted(plan.ends_G, place_I, "right")
        group_I = plan.groups_G[where_I]
        return self._first_G[group_I] + place_I - (plan.ends_G[where_I] - self._sizes_G[group_I])

    def _draw(self, epoch: int) -> Plan:
        groups_G = Permutation(len(self._sizes_G), self._seed, GROUPS, self.key, epoch)(np.arange(len(self._sizes_G)))
        ends_G = np.cumsum(self._sizes_G[groups_G])
        evenly_W = np.arange(1, self._windows) * self.rows // self._windows
        cuts_W = np.unique([0, *np.searchsorted(ends_G, evenly_W) + 1, len(groups_G)])
        return Plan(groups_G, ends_G, cuts_W)
