"""A prepared set, opened for reading: what `prepare` writes and every later stage reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from limoe import files
from limoe.data.inplace import BASE, COLUMNS, Tars
from limoe.data.schema import SCHEMA
from limoe.data.tokenizer import Tokenizer
from limoe.errors import UserError
from limoe.paths import project_of

VERSION = 2
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
REJECTED = "rejected.parquet"


@dataclass(frozen=True)
class RowGroupPlace:
    """A row group: its shard, its number there, and its rows by source."""

    file: str
    number: int
    sources: dict[str, int]


class Prepared:
    """The prepared set in the folder `root`; UserError if there is none, or one of another version."""

    def __init__(self, root: Path) -> None:
        """Open `root`; only its manifest is read here."""
        self.root = root
        if not (root / MANIFEST).is_file():
            raise UserError(f"{root}: no prepared set here ({MANIFEST} is missing); run `limoe prepare` first")
        self.manifest: dict[str, Any] = files.read_json(root / MANIFEST)
        if not isinstance(self.manifest, dict) or self.manifest.get("version") != VERSION:
            raise UserError(
                f"{root / MANIFEST}: not the manifest of a prepared set of version {VERSION}; run `limoe prepare` again"
            )

    @cached_property
    def hash(self) -> str:
        """Hex SHA-256 of the manifest, which lists the hash of every shard and of the tokenizer: it names the set's content."""
        return files.sha256_file(self.root / MANIFEST)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that have rows, sorted."""
        return tuple(sorted(self.manifest["splits"]))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer trained on the training captions."""
        return Tokenizer.load(self.root / TOKENIZER)

    @cached_property
    def _tars(self) -> Tars:
        """Those that hold the pictures that are not here."""
        sources = self.manifest.get("sources", {})
        return Tars(project_of(self.root), {name: told[BASE] for name, told in sources.items() if BASE in told})

    def rows(self, split: str) -> int:
        """Number of rows of `split`; UserError names the splits there are."""
        return int(self._split(split)["rows"])

    def sources(self, split: str) -> dict[str, int]:
        """Rows of `split` by source; UserError names the splits there are."""
        return dict(self._split(split)["sources"])

    def shards(self, split: str) -> list[Path]:
        """The files that hold the rows of `split`, in their order; UserError names the splits there are."""
        return [self.root / shard["file"] for shard in self._split(split)["shards"]]

    def table(self, split: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of `split` (columns of schema.SCHEMA, all by default), in shard order; UserError names the splits there are.

        A column `image` has every picture, those too that lie in tars: see Tars.fill.
        """
        shards = self.shards(split)
        wanted = list(SCHEMA.names if columns is None else columns)
        if self._looks_into_tars(wanted):
            return pa.concat_tables([self.read_group(place, wanted) for place in self.row_groups(split)])
        with self._reading(f"a shard of {split!r}"):
            return pa.concat_tables([pq.read_table(shard, columns=wanted, partitioning=None) for shard in shards])

    def row_groups(self, split: str) -> list[RowGroupPlace]:
        """The row groups of `split` that have rows, in shard order; UserError names the splits there are.

        Only the shards' footers are read, and the column `source` of a row group that has rows of several.
        """
        found = []
        with self._reading(f"a shard of {split!r}"):
            for shard in self._split(split)["shards"]:
                with pq.ParquetFile(self.root / shard["file"]) as file:
                    places = [RowGroupPlace(shard["file"], i, _sources(file, i)) for i in range(file.num_row_groups)]
                found += [place for place in places if place.sources]
        return found

    def read_group(self, place: RowGroupPlace, columns: Sequence[str], source: str | None = None) -> pa.Table:
        """These columns of a row group, or of its rows of one source, read with one thread. `image`: as in `table`."""
        wanted = list(dict.fromkeys((*columns, *COLUMNS)) if self._looks_into_tars(columns) else columns)
        with self._reading(place.file), pq.ParquetFile(self.root / place.file) as file:
            table = file.read_row_group(place.number, wanted, use_threads=False).select(wanted)
            table = table.cast(pa.schema([SCHEMA.field(name) for name in wanted]))  # other programs write strings of other types
        if source is not None and len(place.sources) > 1:
            table = table.filter(pc.equal(table["source"], source))
        return self._tars.fill(table).select(columns)

    def _looks_into_tars(self, columns: Sequence[str]) -> bool:
        return "image" in columns and bool(self._tars)

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        """UserError if a shard is missing, or `what` is broken."""
        try:
            yield
        except FileNotFoundError as error:
            raise UserError(
                f"{self.root}: a shard that {MANIFEST} lists is missing ({error}); run `limoe prepare` again"
            ) from None
        except pa.ArrowMemoryError:
            raise  # an ArrowException, too, and no fault of the shard's
        except (pa.ArrowException, OSError) as error:  # Arrow tells some damage from others, and reports it as either
            detail = " ".join(str(error).split())
            raise UserError(f"{self.root}: {what} is broken ({detail}); run `limoe prepare` again") from None

    def _split(self, split: str) -> dict[str, Any]:
        splits = self.manifest["splits"]
        if split not in splits:
            raise UserError(f"{self.root}: no split {split!r} in this prepared set; it has {', '.join(sorted(splits)) or 'none'}")
        found: dict[str, Any] = splits[split]
        return found


def _sources(file: pq.ParquetFile, group: int) -> dict[str, int]:
    """Rows of a row group by source: where the least and the greatest name are equal, nothing has to be read."""
    metadata = file.metadata.row_group(group)
    statistics = metadata.column(file.schema_arrow.get_field_index("source")).statistics
    if statistics is not None and statistics.has_min_max and statistics.min == statistics.max:
        return {statistics.min: metadata.num_rows}
    return dict(Counter(file.read_row_group(group, ["source"], use_threads=False)["source"].to_pylist()))
