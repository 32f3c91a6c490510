"""Training rows as they are read: a few Parquet row groups of a source are in memory at a time.

Row groups are read by one thread in the background, in the order in which they are asked for. Rows are taken by the thread that
plans the batches, and are copies: a batch that is being made keeps no row group in memory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from typing import NamedTuple

import pyarrow as pa

from limoe.data.mixture import check_known
from limoe.data.order import Order
from limoe.data.prepared import Prepared, RowGroupPlace
from limoe.data.schema import TRAIN
from limoe.data.tokenizer import fold

COLUMNS = ["key", "source", "image", "captions", "label", "sha256"]
Marks = frozenset[str | bytes]


class Row(NamedTuple):
    """One training row.

    image: encoded. labelled: whether it has a class name. marks: what no two rows of a batch may share, folded captions (str) and
    the hash of the picture (bytes).
    """

    key: str
    image: bytes
    captions: list[str]
    labelled: bool
    marks: Marks


class _Values:
    """What a string or binary column holds, as views of its memory: Arrow's scalars take ten times as long, and copy twice."""

    def __init__(self, array: pa.Array) -> None:
        """array: without nulls, with offsets of 32 bits."""
        _, ends, data = array.buffers()
        self._ends = memoryview(ends).cast("i")[array.offset :] if len(array) else memoryview(b"")
        self._data = memoryview(data or b"")

    def __getitem__(self, index: int) -> memoryview:
        return self._data[self._ends[index] : self._ends[index + 1]]


class RowGroup:
    """The rows of one source in one row group."""

    def __init__(self, table: pa.Table) -> None:
        """`table`: with COLUMNS."""
        columns = {name: _in_one_piece(table[name]) for name in COLUMNS}
        self._keys, self._images, self._hashes = (_Values(columns[name]) for name in ("key", "image", "sha256"))
        self._captions, self._ends = _Values(columns["captions"].values), columns["captions"].offsets.to_pylist()
        self._labelled: list[bool] = columns["label"].is_valid().to_pylist()
        self._marks: list[Marks | None] = [None] * len(table)

    def __len__(self) -> int:
        return len(self._marks)

    def __getitem__(self, index: int) -> Row:
        key, captions = str(self._keys[index], "utf-8"), self._captions_of(index)
        return Row(key, bytes(self._images[index]), captions, self._labelled[index], self._marks_of(index, captions))

    def marks(self, index: int) -> Marks:
        """Of that row; folded once, for the epochs in which the group stays."""
        return self._marks[index] or self._marks_of(index, self._captions_of(index))

    def _marks_of(self, index: int, captions: list[str]) -> Marks:
        found = self._marks[index]
        if found is None:
            digest = bytes.fromhex(str(self._hashes[index], "utf-8"))
            found = self._marks[index] = frozenset([*map(fold, captions), digest])
        return found

    def _captions_of(self, index: int) -> list[str]:
        return [str(self._captions[i], "utf-8") for i in range(self._ends[index], self._ends[index + 1])]


def _in_one_piece(column: pa.ChunkedArray) -> pa.Array:
    """The column; Arrow would copy it even if it is in one piece."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


class SourceRows:
    """The training rows of one source: those of the groups that are held, and any other one at the price of reading its group."""

    def __init__(self, name: str, order: Order, read: Callable[[int], RowGroup], pool: Executor) -> None:
        """read: from a group's number. pool: whose thread reads ahead."""
        self.name, self.order, self._read, self._pool = name, order, read, pool
        self._held: dict[int, Future[RowGroup]] = {}

    def hold(self, groups: Iterable[int]) -> None:
        """Let go of every group but these, and begin to read those that are not there."""
        wanted = dict.fromkeys(groups)
        for group in self._held.keys() - wanted.keys():
            self._held.pop(group).cancel()
        for group in wanted:
            if group not in self._held:
                self._held[group] = self._pool.submit(self._read, group)

    def row(self, row: int) -> Row:
        """The row of that index, of a group that is held."""
        group, index = self.order.group_of(row)
        return self._held[group].result()[index]

    def fetch(self, rows: Iterable[int]) -> dict[int, Row]:
        """Rows by their indices, wherever they lie; each group is read once and let go."""
        by_group = defaultdict(list)
        for row in rows:
            group, index = self.order.group_of(row)
            by_group[group].append((row, index))
        found: dict[int, Row] = {}
        for group, members in by_group.items():
            there = self._held[group].result() if group in self._held else self._read(group)
            found |= {row: there[index] for row, index in members}
        return found

    def marks(self, groups: Sequence[int]) -> Iterator[Marks]:
        """Of all rows of these groups, which are held from now on."""
        self.hold(groups)
        for group in groups:
            there = self._held[group].result()
            yield from (there.marks(index) for index in range(len(there)))


def open_sources(prepared: Prepared, names: Sequence[str], shuffle_rows: int, seed: int, pool: Executor) -> list[SourceRows]:
    """The training rows of each of these sources; only footers are read here. UserError if there are none of one."""
    places = prepared.row_groups(TRAIN)
    check_known(names, {source for place in places for source in place.sources})
    sources = []
    for name in names:
        own = [place for place in places if name in place.sources]
        order = Order([place.sources[name] for place in own], shuffle_rows, seed, name)
        sources.append(SourceRows(name, order, partial(_read, prepared, own, name), pool))
    return sources


def _read(prepared: Prepared, places: Sequence[RowGroupPlace], name: str, group: int) -> RowGroup:
    return RowGroup(prepared.read_group(places[group], COLUMNS, name))
