"""`parquet`: files with a column of images (bytes, Hugging Face's struct of bytes and path, paths, data URIs) and of captions.

A row is a picture. A part is a few row groups of a file, of which a batch of rows is held at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from limoe.config import SetParams
from limoe.data.addresses import opened
from limoe.data.sources.arrow import InColumns
from limoe.data.sources.base import Part
from limoe.data.sources.places import find
from limoe.errors import UserError

SUFFIXES = (".parquet", ".pq")
PART_ROWS = 2000
BATCH_ROWS = 64


class Parquet(InColumns):
    """The rows of Parquet files."""

    def __init__(self, name: str, params: SetParams, root: Path) -> None:
        """Read what the files' ends say of them; UserError if none is Parquet, or one lacks a column that is needed."""
        places = find(root, params.path, SUFFIXES)
        super().__init__(name, params, root, places)
        self._groups: dict[str, list[int]] = {}
        self._broken: dict[str, str] = {}
        for place in places:
            try:
                with opened(place.address) as handle, pq.ParquetFile(handle) as file:
                    told = file.metadata
                    self._groups[place.name] = [told.row_group(group).num_rows for group in range(told.num_row_groups)]
                    self.know(place, file.schema_arrow)
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last: of a column's name
                self._broken[place.name] = " ".join(str(error).split())[:300]
        if len(self._broken) == len(places):
            raise UserError(f"{places[0].address}: no Parquet file that can be read ({self._broken[places[0].name]})")

    @property
    def total(self) -> int:
        """The rows, and the files that are broken."""
        return sum(map(sum, self._groups.values())) + len(self._broken)

    @property
    def parts(self) -> Sequence[Part]:
        """Row groups, as many as make PART_ROWS; and each file that is broken."""
        whole = [part for name, rows in self._groups.items() for part in _parts(name, rows)]
        return [*whole, *(Part(name, 0, 0) for name in self._broken)]

    def batches(self, part: Part) -> Iterator[tuple[int, pa.RecordBatch]]:
        """See InColumns."""
        if part.name in self._broken:
            raise OSError(self._broken[part.name])
        groups = range(part.start, part.stop or 0)
        row = sum(self._groups[part.name][: part.start])
        with (
            opened(self.places[part.name].address) as handle,
            pq.ParquetFile(handle, pre_buffer=False, buffer_size=1 << 20) as file,
        ):
            for batch in file.iter_batches(BATCH_ROWS, list(groups), self.columns[part.name].used, use_threads=False):
                yield row, batch
                row += batch.num_rows


def _parts(name: str, rows: Sequence[int]) -> Iterator[Part]:
    start = held = 0
    for group, number in enumerate(rows):
        held += number
        if held >= PART_ROWS or group == len(rows) - 1:
            yield Part(name, start, group + 1)
            start, held = group + 1, 0
