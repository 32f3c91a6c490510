"""Which rows make up each batch: a pure function of (seed, state), so that training resumes exactly.

Axes: P picks.

Every batch takes a fixed number of rows from each source (limoe.data.mixture). A source runs through its rows in a new order each
epoch (limoe.data.order). Two records that share a caption or a picture would be each other's false negatives, so they never meet
in a batch: the second one waits in the source's backlog and goes first into the next batch. Nothing is lost or repeated: each
epoch yields each row once; only its last rows may come a little later than the first ones of the next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from limoe.data.keyed import CAPTION, SHUFFLE, stream, uniform
from limoe.data.rowgroups import Marks, Row, SourceRows
from limoe.errors import UserError


@dataclass(frozen=True, slots=True)
class Pick:
    """One row of a batch: index of its source, epoch and index of the row within it, which of its captions, and what it is."""

    source: int
    epoch: int
    index: int
    caption: int
    row: Row


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


class Sampler:
    """The plan of all batches. `draw` maps a state to a batch and the next state; which rows are in memory changes neither."""

    def __init__(self, sources: Sequence[SourceRows], counts: Sequence[int], seed: int, steps: int) -> None:
        """`counts`: rows of each source in a batch. UserError where `steps` such batches are known not to be kept apart."""
        for source, count in zip(sources, counts, strict=True):
            check_apart(source, count, steps)
        self.sources, self.counts, self.seed = tuple(sources), tuple(counts), seed
        self._waiting: list[dict[int, Row]] = [{} for _ in sources]  # the rows of the last backlogs

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
            picks += self._with_captions(number, rows)
            cursors.append(cursor)
        order = stream(self.seed, SHUFFLE, state.step).permutation(len(picks))
        return [picks[i] for i in order], State(state.step + 1, tuple(cursors))

    def drop(self) -> None:
        """Let go of all rows; what is asked for next is read anew."""
        for source, waiting in zip(self.sources, self._waiting, strict=True):
            source.hold(())
            waiting.clear()

    def _fill(self, number: int, cursor: Cursor, taken: set[str | bytes]) -> tuple[list[tuple[int, int, Row]], Cursor]:
        """(epoch, index, row) of this source's part of a batch, the backlog first. `taken` grows by their marks."""
        source, wanted = self.sources[number], self.counts[number]
        chosen: list[tuple[int, int, Row]] = []
        waiting: list[tuple[int, int, Row]] = []

        def offer(epoch: int, index: int, row: Row) -> None:
            if len(chosen) < wanted and taken.isdisjoint(row.marks):
                chosen.append((epoch, index, row))
                taken.update(row.marks)
            else:
                waiting.append((epoch, index, row))

        there = self._waiting[number]
        there |= source.fetch({index for _, index in cursor.backlog} - there.keys())
        for epoch, index in cursor.backlog:
            offer(epoch, index, there[index])
        drawn = cursor.drawn
        while len(chosen) < wanted:
            if len(waiting) > 2 * (source.order.largest + wanted):
                raise UserError(_crowded(source.name, wanted, [row.marks for _, _, row in waiting]))
            stretch = source.order.stretch(drawn, wanted - len(chosen))
            source.hold([*stretch.groups, *stretch.soon])
            for index in stretch.rows_I.tolist():
                offer(stretch.epoch, index, source.row(index))
            drawn += len(stretch.rows_I)
        self._waiting[number] = {index: row for _, index, row in waiting}
        return chosen, Cursor(drawn, tuple((epoch, index) for epoch, index, _ in waiting))

    def _with_captions(self, number: int, rows: Sequence[tuple[int, int, Row]]) -> list[Pick]:
        """One caption of each, drawn by (row, epoch)."""
        epoch_P, index_P = np.array([item[:2] for item in rows]).T
        chance_P = uniform(index_P, epoch_P, self.seed, CAPTION, self.sources[number].order.key)
        drawn = (chance_P * [len(row.captions) for _, _, row in rows]).astype(int).tolist()
        return [Pick(number, epoch, index, caption, row) for (epoch, index, row), caption in zip(rows, drawn, strict=True)]


def check_apart(source: SourceRows, count: int, steps: int) -> None:
    """UserError if `steps` batches of `count` rows of `source` cannot keep equal captions and pictures apart.

    A mark on m of the R rows comes up m * count / R times a batch, and only one finds room: what exceeds 1 adds to the backlog. A
    little excess only leaves a few rows waiting at the end; refused is a backlog that would outgrow the whole source. Only a
    source that fits into a window is looked at: a larger one is refused when its backlog has outgrown two windows.
    """
    order = source.order
    if order.rows < count:
        raise UserError(
            f"a batch takes {count} rows of source {source.name!r}, which has only {order.rows} training rows; "
            "lower train.batch or the source's share in train.mixture"
        )
    if not order.whole:
        return
    rows_of = Counter(mark for marks in source.marks(order.stretch(0, 1).groups) for mark in marks)
    waiting = steps * sum(max(0.0, rows * count / order.rows - 1) for rows in rows_of.values())
    if waiting > order.rows:
        what, most = _commonest(rows_of)
        raise UserError(
            f"a batch takes {count} rows of source {source.name!r}, but {what} stands on {most} of its {order.rows} "
            f"training rows: with equal ones apart that leaves {order.rows // most} rows a batch; lower train.batch or the "
            "source's share in train.mixture, or write captions that tell the pictures apart"
        )


def _crowded(name: str, count: int, marks: Iterable[Marks]) -> str:
    """What to say when ever more rows wait."""
    waiting = list(marks)
    what, most = _commonest(Counter(mark for its in waiting for mark in its))
    return (
        f"source {name!r}: found no {count} rows without a caption or picture in common with each other or the rest of the "
        f"batch; {what} stands on {most} of {len(waiting)} rows that wait; lower train.batch or the source's share in "
        "train.mixture, or write captions that tell the pictures apart"
    )


def _commonest(rows_of: Counter[str | bytes]) -> tuple[str, int]:
    """The mark on the most rows in words (the first by name of equals), and on how many it is."""
    most = max(rows_of.values())
    mark = min((mark for mark, rows in rows_of.items() if rows == most), key=str)
    return f"the caption {mark!r}" if isinstance(mark, str) else "one picture", most
