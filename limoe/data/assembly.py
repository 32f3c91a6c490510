"""Of the parts of all sources, which rows enter the set, and where each of them goes."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from limoe.data.groups import CONFLICT, CONFLICTING, settle
from limoe.data.parts import HASHES, RECORDS, REFUSED, TIES, Made, PartTask, Workshop
from limoe.data.repeats import Evaluated, repeated_pictures
from limoe.data.rows import Rows, leakage, repeated_keys
from limoe.data.schema import TRAIN
from limoe.data.shards import REJECTED_SCHEMA, RowWriter, Shard
from limoe.data.sources import Rejected

DETAILS = {  # of what shows only beside another picture, `{other}` its key
    "duplicate-key": "an earlier row has this key",
    CONFLICT: CONFLICTING,
    "duplicate-picture": "byte for byte that of {other}",
    "near-duplicate": "nearly that of {other}",
    "evaluated-picture": "byte for byte that of {other}",
    "near-evaluated": "nearly that of {other}",
}
NAMED_PARTS = 64  # whose keys are held while rejected rows are written
CONTENT = ("key", "sha256", "captions")


class Assembly:
    """The set that the parts make up. What it holds of a row is in Rows; all else it reads again from the parts when asked."""

    def __init__(
        self, shop: Workshop, tasks: Sequence[PartTask], made: Sequence[Made], evaluated: Evaluated | None = None
    ) -> None:
        """made: what came of each task. evaluated: pictures that must not be trained on."""
        self._shop, self._tasks, self._made = shop, tasks, made
        folders = [shop.part(task.number) for task in tasks]
        hashes = [folder / HASHES for folder in folders] if shop.params.duplicates.radius is not None else []
        rows = Rows.read([folder / RECORDS for folder in folders], [part.rows for part in made], hashes)
        self._kept = np.ones(len(rows.keys), np.bool_)
        self._drops = [repeated_keys(rows)]
        self._kept[self._drops[0].rows] = False
        settled = settle(rows, self._kept, [folder / TIES for folder in folders])
        self._rows, self._straddling = settled.rows, settled.straddling
        self._drops.append(settled.conflicts)
        self._kept[settled.conflicts.rows] = False
        for drop in repeated_pictures(self._rows, self._kept, TRAIN, shop.params.duplicates, evaluated):
            self._drops.append(drop)
            self._kept[drop.rows] = False
        self._names = lru_cache(maxsize=NAMED_PARTS)(self._read_names)

    def count(self, split: str | None = None) -> int:
        """Rows of the set, or of one split."""
        return int(self._kept.sum() if split is None else len(self._in(split)))

    @property
    def rejected(self) -> dict[str, int]:
        """Inputs that do not enter the set, by reason."""
        counts = sum((Counter(part.rejected) for part in self._made), Counter[str]())
        return dict(counts + Counter({drop.reason: len(drop.rows) for drop in self._drops}))

    @property
    def dropped_captions(self) -> dict[str, int]:
        """Captions that were left out of the parts' records, by reason."""
        return dict(sum((Counter(part.captions) for part in self._made), Counter[str]()))

    def leakage(self) -> dict[str, int]:
        """See rows.leakage."""
        return leakage(self._rows, self._kept, TRAIN)

    def straddling(self, source: str) -> int:
        """Rows that this source itself names into another split than an equal picture."""
        rows = np.sort(self._straddling[0, self._kept[self._straddling].all(0)])
        return sum(len(own) for part, own in self._rows.by_part(rows) if self._tasks[part].source == source)

    def explain(self) -> str:
        """Why there is not more: the number of rejected inputs and their commonest reason, with its first example."""
        counts = Counter(self.rejected)
        if not counts:
            return "the sources in prepare.sources yield no training rows"
        reason, count = counts.most_common(1)[0]
        first = next(row for row in self._refused() if row.reason == reason)
        return f"{counts.total()} inputs were rejected, {count} of them as {reason} (first {first.key}: {first.detail})"

    def write_rejected(self, path: Path) -> None:
        """Key, source, reason and detail of each rejected input, in the order in which they were met."""
        with RowWriter(path, REJECTED_SCHEMA) as writer:
            for row in self._refused():
                writer.add(asdict(row))

    def content(self, source: str) -> dict[str, Any]:
        """What this source brought: number of rows, and SHA-256 over their keys, splits, pictures and captions."""
        count, digest = 0, hashlib.sha256()
        for task in self._tasks:
            if task.source == source:
                for split, row in self._columns(task.number, CONTENT):
                    key, sha256, captions = (row[name] for name in CONTENT)
                    digest.update(repr((key, split, sha256, tuple(captions))).encode())
                    count += 1
        return {"rows": count, "sha256": digest.hexdigest()}

    def shards(self, shard_rows: int) -> Iterator[Shard]:
        """Each split's rows in their order, so many a shard."""
        for split in sorted(self._rows.splits):
            rows = self._in(split)
            for number, start in enumerate(range(0, len(rows), shard_rows)):
                pieces = self._rows.by_part(rows[start : start + shard_rows])
                named = [(self._shop.part(part) / RECORDS, self._made[part].content, own) for part, own in pieces]
                yield Shard(split, number, named)

    def _in(self, split: str) -> NDArray[np.int64]:
        """The rows of a split that enter the set."""
        return np.flatnonzero(self._kept & self._rows.in_split(split))

    def _columns(self, part: int, names: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """(split, columns) of the part's rows that enter the set."""
        own = slice(*self._rows.starts[part : part + 2])
        table = pq.read_table(self._shop.part(part) / RECORDS, columns=list(names), partitioning=None)
        splits = [self._rows.splits[number] for number in self._rows.split[own][self._kept[own]]]
        yield from zip(splits, table.filter(self._kept[own]).to_pylist(), strict=True)

    def _refused(self) -> Iterator[Rejected]:
        """All rejected inputs: what a part's candidates failed alone and beside others, in the part's order."""
        for task, made in zip(self._tasks, self._made, strict=True):
            both = heapq.merge(self._alone(task.number), self._beside(task.number, made), key=itemgetter(0))
            yield from (row for _, row in both)

    def _alone(self, part: int) -> Iterator[tuple[int, Rejected]]:
        """What the part's checks rejected, with its place among the part's candidates."""
        with pq.ParquetFile(self._shop.part(part) / REFUSED) as file:
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    yield row.pop("position"), Rejected(**row)

    def _beside(self, part: int, made: Made) -> Iterator[tuple[int, Rejected]]:
        """Likewise what is dropped of its records."""
        start, stop = self._rows.starts[part : part + 2]
        found = [(row, other, drop) for drop in self._drops for row, other in drop.between(start, stop)]
        if found:
            table = pq.read_table(self._shop.part(part) / REFUSED, columns=["position"], partitioning=None)
            refused = table["position"].to_numpy()
            positions = np.delete(np.arange(made.rows + len(refused)), refused)
            for row, other, drop in sorted(found, key=itemgetter(0)):
                key, source = self._name(row)
                repeated = self._name(other)[0] if drop.names is None else drop.names[other]
                yield int(positions[row - start]), Rejected(key, source, drop.reason, DETAILS[drop.reason].format(other=repeated))

    def _name(self, row: int) -> tuple[str, str]:
        """The row's key and source."""
        ((part, (own,)),) = self._rows.by_part(np.array([row]))
        table = self._names(part)
        return table["key"][own].as_py(), table["source"][own].as_py()

    def _read_names(self, part: int) -> pa.Table:
        return pq.read_table(self._shop.part(part) / RECORDS, columns=["key", "source"], partitioning=None)
