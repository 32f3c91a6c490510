"""A prepared set, opened for reading: what `prepare` writes and every later stage reads."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from limoe import files
from limoe.data.tokenizer import Tokenizer
from limoe.errors import UserError

VERSION = 1
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
REJECTED = "rejected.parquet"


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
        """Rows of `split` (columns of schema.SCHEMA, all by default), in shard order; UserError names the splits there are."""
        shards = self.shards(split)
        wanted = None if columns is None else list(columns)
        try:
            return pa.concat_tables([pq.read_table(shard, columns=wanted, partitioning=None) for shard in shards])
        except FileNotFoundError as error:
            raise UserError(
                f"{self.root}: a shard that {MANIFEST} lists is missing ({error}); run `limoe prepare` again"
            ) from None
        except (pa.ArrowException, OSError) as error:  # Arrow tells some damage from others, and reports it as either
            what = " ".join(str(error).split())
            raise UserError(f"{self.root}: a shard of {split!r} is broken ({what}); run `limoe prepare` again") from None

    def _split(self, split: str) -> dict[str, Any]:
        splits = self.manifest["splits"]
        if split not in splits:
            raise UserError(f"{self.root}: no split {split!r} in this prepared set; it has {', '.join(sorted(splits)) or 'none'}")
        found: dict[str, Any] = splits[split]
        return found
