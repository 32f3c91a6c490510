"""Encoded pictures that are read when they are asked for: from memory, files, Parquet or tar, always in one fixed order."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from limoe.data.prepared import Prepared
from limoe.errors import UserError

PIECE = 256  # pictures read at a time where all are read


class Pictures(Protocol):
    """N encoded pictures."""

    def __len__(self) -> int:
        """How many there are."""

    def read(self, start: int, count: int) -> list[bytes]:
        """Those from `start`, `count` of them or as many as are left; UserError if one is no longer there."""


def pieces(pictures: Pictures, size: int = PIECE) -> Iterator[list[bytes]]:
    """All of them in order, `size` at a time."""
    for start in range(0, len(pictures), size):
        yield pictures.read(start, size)


def digests(pictures: Pictures) -> list[str]:
    """Hex SHA-256 of each."""
    return [hashlib.sha256(picture).hexdigest() for piece in pieces(pictures) for picture in piece]


def content_hash(digests: Iterable[str]) -> str:
    """Hex SHA-256 over those of pictures."""
    return hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()


@dataclass(frozen=True)
class Column:
    """Pictures in memory: an Arrow column of binaries."""

    column: pa.ChunkedArray

    def __len__(self) -> int:
        return len(self.column)

    def read(self, start: int, count: int) -> list[bytes]:
        """See Pictures."""
        found: list[bytes] = self.column.slice(start, count).to_pylist()
        return found


@dataclass(frozen=True)
class Files:
    """A file each."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, start: int, count: int) -> list[bytes]:
        """See Pictures."""
        return [_part(path, 0, -1) for path in self.paths[start : start + count]]


@dataclass(frozen=True)
class Member:
    """Where a picture lies in an uncompressed tar: file, first byte, number of bytes."""

    tar: Path
    offset: int
    size: int


@dataclass(frozen=True)
class TarMembers:
    """Members of tars."""

    members: Sequence[Member]

    def __len__(self) -> int:
        return len(self.members)

    def read(self, start: int, count: int) -> list[bytes]:
        """See Pictures."""
        return [_part(member.tar, member.offset, member.size) for member in self.members[start : start + count]]


@dataclass(frozen=True)
class Part:
    """Some of other pictures, in an order of its own."""

    whole: Pictures
    rows: Sequence[int]

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, start: int, count: int) -> list[bytes]:
        """See Pictures."""
        return [self.whole.read(row, 1)[0] for row in self.rows[start : start + count]]


class ByGroup(ABC):
    """Pictures that are read by the group, of which one is held at a time."""

    def __init__(self, sizes: Iterable[int]) -> None:
        """sizes: pictures of each group."""
        self._starts: list[int] = [0, *accumulate(sizes)]
        self._held: tuple[int, list[bytes]] = (-1, [])

    def __len__(self) -> int:
        return self._starts[-1]

    @abstractmethod
    def _group(self, index: int) -> list[bytes]:
        """The pictures of a group."""

    def read(self, start: int, count: int) -> list[bytes]:
        """See Pictures."""
        found: list[bytes] = []
        end = min(start + count, len(self))
        while start < end:
            index = bisect_right(self._starts, start) - 1
            first = start - self._starts[index]
            if self._held[0] != index:
                self._held = (index, self._group(index))
            found += self._held[1][first : first + end - start]
            start = min(end, self._starts[index + 1])
        return found


class ParquetColumn(ByGroup):
    """A binary column of Parquet files, by their row groups. column: dotted, as `image.bytes`."""

    def __init__(self, paths: Sequence[Path], column: str) -> None:
        self._column = column
        told = [(path, pq.read_metadata(path)) for path in paths]
        self._groups = [(path, group) for path, metadata in told for group in range(metadata.num_row_groups)]
        super().__init__(metadata.row_group(group).num_rows for _, metadata in told for group in range(metadata.num_row_groups))

    def _group(self, index: int) -> list[bytes]:
        path, group = self._groups[index]
        try:
            with pq.ParquetFile(path) as file:
                column = file.read_row_group(group, columns=[self._column]).column(0)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last: of a column's name
            raise UserError(f"{path}: its row group {group} cannot be read ({' '.join(str(error).split())})") from None
        for name in self._column.split(".")[1:]:
            column = pa.chunked_array([chunk.field(name) for chunk in column.chunks], pa.binary())
        if len(column) != self._starts[index + 1] - self._starts[index]:
            raise UserError(f"{path}: its row group {group} has other rows than the file says")
        found: list[bytes] = column.to_pylist()
        return found


class PreparedPictures(ByGroup):
    """The pictures of a split of a prepared set, wherever they lie, by the row groups of its shards."""

    def __init__(self, prepared: Prepared, split: str) -> None:
        """UserError if there is no such split."""
        self._prepared, self._places = prepared, prepared.row_groups(split)
        super().__init__(sum(place.sources.values()) for place in self._places)

    def _group(self, index: int) -> list[bytes]:
        found: list[bytes] = self._prepared.read_group(self._places[index], ["image"])["image"].to_pylist()
        return found


def _part(path: Path, offset: int, size: int) -> bytes:
    """`size` bytes from `offset`, or all from there if it is -1."""
    try:
        with path.open("rb") as handle:
            handle.seek(offset)
            return handle.read(size)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or type(error).__name__}") from None
