"""Parquet files of a prepared set, written as rows come: the same bytes for the same rows, with one row group in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from limoe import files
from limoe.data.schema import SCHEMA
from limoe.data.sources import Rejected

BUFFER_ROWS, BUFFER_BYTES = 2000, 64 << 20  # what waits in memory until it is written as a row group
REJECTED_SCHEMA = pa.schema([pa.field(field.name, pa.string(), nullable=False) for field in fields(Rejected)])


class RowWriter:
    """A Parquet file of rows, complete once closed. A context manager."""

    def __init__(self, sink: Path | BinaryIO, schema: pa.Schema, **options: Any) -> None:
        """options: further ones of pyarrow's ParquetWriter."""
        self._schema = schema
        self._writer = pq.ParquetWriter(sink, schema, **options)
        self._waiting: list[Mapping[str, Any]] = []
        self._waiting_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, row: Mapping[str, Any]) -> None:
        """Append the row, which has a value for each name of the schema that is not null. A picture that is not here counts as
        one that is: it is read with its row group."""
        self._waiting.append(row)
        picture = row.get("length") or len(row.get("image") or b"")
        self._waiting_bytes += picture + sum(map(len, row.get("captions", ())))
        if len(self._waiting) == BUFFER_ROWS or self._waiting_bytes >= BUFFER_BYTES:
            self._flush()

    def close(self) -> None:
        """Write what waits, and the file's end."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.Table.from_pylist(self._waiting, schema=self._schema))
            self._waiting, self._waiting_bytes = [], 0


def record_writer(sink: Path | BinaryIO) -> RowWriter:
    """For rows of schema.SCHEMA."""
    # Encoded pictures do not compress, and neither a dictionary nor the least and greatest of them is of use.
    names = [name for name in SCHEMA.names if name not in ("image", "captions")]
    compression = {"captions.list.element": "zstd", "image": "none", **dict.fromkeys(names, "zstd")}
    return RowWriter(sink, SCHEMA, compression=compression, use_dictionary=["source", "split", "tar"], write_statistics=names)


def read_rows(path: Path, wanted_W: NDArray[np.int64]) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file that have these numbers, ascending; one row group at a time."""
    with pq.ParquetFile(path) as file:
        start = 0
        for group in range(file.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            first, last = np.searchsorted(wanted_W, (start, stop))
            if first < last:
                yield from file.read_row_group(group).take(pa.array(wanted_W[first:last] - start)).to_pylist()
            start = stop


@dataclass(frozen=True)
class Written:
    """A shard that lies in its folder. sources: its rows by source."""

    split: str
    number: int
    file: str
    rows: int
    sha256: str
    sources: dict[str, int]


@dataclass(frozen=True)
class Shard:
    """A shard to be written, the split's shard of this number. pieces: of each file of records a name for its content, and which
    of its rows, ascending."""

    split: str
    number: int
    pieces: Sequence[tuple[Path, str, NDArray[np.int64]]]

    def __str__(self) -> str:
        return f"{self.split}-{self.number:05d}.parquet"

    def write(self, folder: Path) -> Written:
        """Write it into `folder`, unless it lies there already.

        What this returns is written down beside it, and last: where that is there, the shard is whole.
        """
        file, note = str(self), folder / f"{self}.json"
        origin = files.sha256_json([[content, rows.tolist()] for _, content, rows in self.pieces])
        if note.is_file() and (done := files.read_json(note))["origin"] == origin:
            return Written(**done["written"])
        note.unlink(missing_ok=True)  # it is of the shard that goes
        sources: Counter[str] = Counter()
        with files.atomic_file(folder / file) as handle, record_writer(handle) as writer:
            for path, _, rows in self.pieces:
                for row in read_rows(path, rows):
                    writer.add(row | {"split": self.split})  # that of its group, whatever the part could know
                    sources[row["source"]] += 1
        digest = files.sha256_file(folder / file)
        written = Written(self.split, self.number, file, sources.total(), digest, dict(sorted(sources.items())))
        files.write_json(note, {"origin": origin, "written": asdict(written)})
        return written
