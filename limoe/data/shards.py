"""Records to Parquet: a few big shards a split, written as rows come, the same bytes for the same rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from limoe import files
from limoe.data.schema import SCHEMA, Record
from limoe.data.sources import Rejected

BUFFER_ROWS, BUFFER_BYTES = 2000, 64 << 20  # what a split holds in memory before it writes a row group
REJECTED_SCHEMA = pa.schema([pa.field(field.name, pa.string(), nullable=False) for field in fields(Rejected)])


class ShardWriter:
    """Shards `<split>-00000.parquet` of at most `shard_rows` rows in the folder `out`."""

    def __init__(self, out: Path, shard_rows: int) -> None:
        """Nothing is opened before the first record of a split."""
        self._out, self._shard_rows = out, shard_rows
        self._splits: dict[str, _Split] = {}

    def add(self, record: Record) -> None:
        """Append the record to its split."""
        if record.split not in self._splits:
            self._splits[record.split] = _Split(self._out, record.split, self._shard_rows)
        self._splits[record.split].add(record)

    def close(self) -> dict[str, Any]:
        """Finish every file; the manifest's `splits`: rows, shards with their hashes, rows by source."""
        return {name: self._splits[name].close() for name in sorted(self._splits)}


class _Split:
    """One split's open shard and the rows that wait for it."""

    def __init__(self, out: Path, name: str, shard_rows: int) -> None:
        self._out, self._name, self._shard_rows = out, name, shard_rows
        self._waiting: list[Record] = []
        self._waiting_bytes = 0
        self._writer: pq.ParquetWriter | None = None
        self._shards: list[dict[str, Any]] = []
        self._sources: Counter[str] = Counter()

    def add(self, record: Record) -> None:
        if self._writer is None:
            self._shards.append({"file": f"{self._name}-{len(self._shards):05d}.parquet", "rows": 0})
            self._writer = _open(self._out / self._shards[-1]["file"])
        self._waiting.append(record)
        self._waiting_bytes += len(record.image)
        self._sources[record.source] += 1
        self._shards[-1]["rows"] += 1
        if len(self._waiting) == BUFFER_ROWS or self._waiting_bytes >= BUFFER_BYTES:
            self._flush()
        if self._shards[-1]["rows"] == self._shard_rows:
            self._finish()

    def close(self) -> dict[str, Any]:
        self._finish()
        rows = sum(shard["rows"] for shard in self._shards)
        return {"rows": rows, "shards": self._shards, "sources": dict(sorted(self._sources.items()))}

    def _flush(self) -> None:
        if self._writer is not None and self._waiting:
            rows = [{name: getattr(record, name) for name in SCHEMA.names} for record in self._waiting]
            self._writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
            self._waiting, self._waiting_bytes = [], 0

    def _finish(self) -> None:
        if self._writer is not None:
            self._flush()
            self._writer.close()
            self._writer = None
            self._shards[-1]["sha256"] = files.sha256_file(self._out / self._shards[-1]["file"])


def write_rejected(rows: Iterable[Rejected], path: Path) -> None:
    """Write key, source, reason and detail of each rejected input, in the order in which they were met."""
    pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], schema=REJECTED_SCHEMA), path)


def _open(path: Path) -> pq.ParquetWriter:
    # Encoded pictures do not compress, and neither a dictionary nor the least and greatest of them is of use.
    names = [name for name in SCHEMA.names if name not in ("image", "captions")]
    compression = {"captions.list.element": "zstd", "image": "none", **dict.fromkeys(names, "zstd")}
    return pq.ParquetWriter(path, SCHEMA, compression=compression, use_dictionary=["source", "split"], write_statistics=names)
