"""Which rows make up each batch: a pure function of (seed, state), so that training resumes exactly.

Every batch takes a fixed number of rows from each source (`mixture_counts`). A source runs through a new permutation of its rows
each epoch. Two records that share a caption or a picture would be each other's false negatives, so they never meet in a batch:
the second one waits in the source's backlog and goes first into the next batch. Nothing is lost or repeated: each epoch yields
each row once; only its last rows may come a little later than the first ones of the next.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from limoe.data.tokenizer import fold
from limoe.errors import UserError

ORDER, CAPTION, SHUFFLE, AUGMENT = range(4)  # purposes of random streams: the same seed gives each its own


class Pick(NamedTuple):
    """One row of a batch: index of the source, row and epoch within it, and which of its captions."""

    source: int
    row: int
    epoch: int
    caption: int


class Cursor(NamedTuple):
    """Where a source stands: rows drawn since the start of training, and the drawn (epoch, row) that still wait."""

    drawn: int = 0
    backlog: tuple[tuple[int, int], ...] = ()


class State(NamedTuple):
    """Where sampling stands after `step` batches; one cursor a source."""

    step: int
    cursors: tuple[Cursor, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values."""
        return {"step": self.step, "cursors": [[drawn, [list(item) for item in backlog]] for drawn, backlog in self.cursors]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> State:
        """The inverse of `to_dict`."""
        cursors = (Cursor(drawn, tuple((epoch, row) for epoch, row in backlog)) for drawn, backlog in values["cursors"])
        return cls(values["step"], tuple(cursors))


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
    source_R = np.array(sources_R, dtype=object)
    for name in names:
        if not (source_R == name).any():
            there = ", ".join(sorted(set(source_R))) or "none"
            raise UserError(f"train.mixture.{name}: the prepared set has no training rows of that source; it has some of {there}")
    return [np.flatnonzero(source_R == name) for name in names]


@dataclass(frozen=True)
class Source:
    """The training rows of one source as the sampler sees them.

    caption_counts_R: captions of each row. marks_R: what no two rows of a batch may share, folded captions (str) and the hash of
    the picture (bytes).
    """

    name: str
    caption_counts_R: NDArray[np.int64]
    marks_R: Sequence[frozenset[str | bytes]]

    @classmethod
    def of(cls, name: str, captions_RK: Sequence[Sequence[str]], sha256_R: Sequence[str]) -> Source:
        """From each row's captions (at least one) and the hex digest of its picture."""
        counts_R = np.array([len(captions) for captions in captions_RK], dtype=np.int64)
        pairs = zip(captions_RK, sha256_R, strict=True)
        return cls(name, counts_R, [frozenset([*map(fold, captions), bytes.fromhex(digest)]) for captions, digest in pairs])

    @property
    def rows(self) -> int:
        """Number of training rows."""
        return len(self.marks_R)


class Sampler:
    """The plan of all batches. Holds no position: `draw` maps a state to a batch and the next state."""

    def __init__(self, sources: Sequence[Source], counts: Sequence[int], seed: int, steps: int) -> None:
        """`counts`: rows of each source in a batch. UserError where `steps` batches of so many rows cannot be kept apart."""
        for source, count in zip(sources, counts, strict=True):
            check_apart(source, count, steps)
        self.sources, self.counts, self.seed = tuple(sources), tuple(counts), seed
        self._epoch = lru_cache(maxsize=3 * len(self.sources))(self._draw_epoch)

    @property
    def start(self) -> State:
        """The state before the first batch."""
        return State(0, tuple(Cursor() for _ in self.sources))

    def draw(self, state: State) -> tuple[list[Pick], State]:
        """The batch after `state`, its sources mixed, and the state after it."""
        taken: set[str | bytes] = set()
        picks: list[Pick] = []
        cursors = []
        for number, cursor in enumerate(state.cursors):
            rows, cursor = self._fill(number, cursor, taken)
            picks += [Pick(number, row, epoch, int(self._epoch(number, epoch)[1][row])) for epoch, row in rows]
            cursors.append(cursor)
        order = stream(self.seed, SHUFFLE, state.step).permutation(len(picks))
        return [picks[i] for i in order], State(state.step + 1, tuple(cursors))

    def _fill(self, number: int, cursor: Cursor, taken: set[str | bytes]) -> tuple[list[tuple[int, int]], Cursor]:
        """(epoch, row) of this source's part of a batch: the backlog first, then new rows. `taken` grows by their marks."""
        source, wanted = self.sources[number], self.counts[number]
        chosen: list[tuple[int, int]] = []
        waiting: list[tuple[int, int]] = []

        def offer(epoch: int, row: int) -> None:
            marks = source.marks_R[row]
            if len(chosen) < wanted and taken.isdisjoint(marks):
                chosen.append((epoch, row))
                taken.update(marks)
            else:
                waiting.append((epoch, row))

        for epoch, row in cursor.backlog:
            offer(epoch, row)
        drawn = cursor.drawn
        while len(chosen) < wanted:
            if drawn - cursor.drawn > 2 * source.rows:
                raise UserError(
                    f"source {source.name!r}: found no {wanted} rows without a caption or picture in common with each other "
                    "or the rest of the batch; lower train.batch or the source's share in train.mixture"
                )
            epoch, index = divmod(drawn, source.rows)
            offer(epoch, int(self._epoch(number, epoch)[0][index]))
            drawn += 1
        return chosen, Cursor(drawn, tuple(waiting))

    def _draw_epoch(self, number: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(order of the rows, caption of each row) of one epoch of a source; they depend on no other source."""
        source = self.sources[number]
        name = int.from_bytes(hashlib.sha256(source.name.encode()).digest()[:8])
        order_R = stream(self.seed, ORDER, name, epoch).permutation(source.rows)
        uniform_R = stream(self.seed, CAPTION, name, epoch).random(source.rows)
        return order_R, (uniform_R * source.caption_counts_R).astype(np.int64)


def stream(seed: int, purpose: int, *keys: int) -> np.random.Generator:
    """The random stream of (seed, purpose, keys): independent of every other one, and of what was drawn before."""
    return np.random.default_rng([seed, purpose, *keys])


def check_apart(source: Source, count: int, steps: int) -> None:
    """UserError if `steps` batches of `count` rows of `source` cannot keep equal captions and pictures apart.

    A mark on m of the R rows comes up m * count / R times a batch, and only one finds room: what exceeds 1 adds to the backlog. A
    little excess only leaves a few rows waiting at the end; refused is a backlog that would outgrow the whole source.
    """
    if source.rows < count:
        raise UserError(
            f"a batch takes {count} rows of source {source.name!r}, which has only {source.rows} training rows; "
            "lower train.batch or the source's share in train.mixture"
        )
    rows_of = Counter(mark for marks in source.marks_R for mark in marks)
    waiting = steps * sum(max(0.0, rows * count / source.rows - 1) for rows in rows_of.values())
    if waiting > source.rows:
        most = max(rows_of.values())
        mark = min((mark for mark, rows in rows_of.items() if rows == most), key=str)
        what = f"the caption {mark!r}" if isinstance(mark, str) else "one picture"
        raise UserError(
            f"a batch takes {count} rows of source {source.name!r}, but {what} stands on {most} of its {source.rows} "
            f"training rows: with equal ones apart that leaves {source.rows // most} rows a batch; lower train.batch or the "
            "source's share in train.mixture, or write captions that tell the pictures apart"
        )
