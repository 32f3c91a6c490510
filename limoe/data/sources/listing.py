"""What is known of pictures before any is opened, in a temporary file: memory does not grow with their number."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator
from dataclasses import astuple, dataclass, field
from typing import Any

from limoe.data.scratch import scratch, to_blob, to_path
from limoe.data.sources.base import Rejected

TABLES = """
CREATE TABLE refused (number INTEGER PRIMARY KEY, key, source, reason, detail);
CREATE TABLE pictures (
    number INTEGER PRIMARY KEY, path UNIQUE NOT NULL, held, captions, label, split, named_group, split_group NOT NULL
);
CREATE INDEX splits ON pictures (split_group, number) WHERE split IS NOT NULL;
"""
PICTURE = "SELECT path, held, captions, label, split, named_group FROM pictures"


@dataclass(slots=True)
class Picture:
    """What all rows say about one image. held: where the bytes are, if the path does not tell: plain values, as JSON has them."""

    path: str
    held: Any = None
    captions: list[str] = field(default_factory=list)
    label: str | None = None
    split: str | None = None
    group: str | None = None

    @property
    def split_group(self) -> str:
        """The named group, else the path without its suffix."""
        return self.group or posixpath.splitext(self.path)[0]


class Listing:
    """Pictures, each path once, in the order in which they came, and rejected rows. In a scratch file."""

    def __init__(self) -> None:
        """Empty."""
        self._file = scratch(TABLES)

    def get(self, path: str) -> Picture | None:
        """The picture of this path, if it is there."""
        found = self._file.execute(f"{PICTURE} WHERE path = ?", (to_blob(path),)).fetchone()
        return found and _picture(found)

    def put(self, picture: Picture) -> None:
        """Add the picture, or replace what was known of it; its place stays."""
        held = None if picture.held is None else json.dumps(picture.held)
        told = (to_blob(picture.path), held, json.dumps(picture.captions), picture.label, picture.split, picture.group)
        self._file.execute(
            "INSERT INTO pictures VALUES (NULL, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (path) DO UPDATE SET held = excluded.held, "
            "captions = excluded.captions, label = excluded.label, split = excluded.split, "
            "named_group = excluded.named_group, split_group = excluded.split_group",
            (*told, to_blob(picture.split_group)),
        )

    def pictures(self, start: int, stop: int) -> Iterator[Picture]:
        """Those from `start` up to `stop`."""
        places = (start, stop)
        return map(_picture, self._file.execute(f"{PICTURE} WHERE number > ? AND number <= ? ORDER BY number", places))

    def split_of(self, group: str) -> str | None:
        """The split of the group's first picture that has one."""
        first = "SELECT split FROM pictures WHERE split_group = ? AND split IS NOT NULL ORDER BY number LIMIT 1"
        found = self._file.execute(first, (to_blob(group),)).fetchone()
        return found and found[0]

    def refuse(self, row: Rejected) -> None:
        """Add a rejected row."""
        self._file.execute("INSERT INTO refused VALUES (NULL, ?, ?, ?, ?)", astuple(row))

    def refused(self) -> Iterator[Rejected]:
        """The rejected rows."""
        return (Rejected(*row) for row in self._file.execute("SELECT key, source, reason, detail FROM refused ORDER BY number"))

    @property
    def counts(self) -> tuple[int, int]:
        """Number of pictures, and of rejected rows."""
        pictures, refused = (
            self._file.execute(f"SELECT coalesce(max(number), 0) FROM {table}").fetchone()[0] for table in ("pictures", "refused")
        )
        return pictures, refused


def _picture(row: tuple[Any, ...]) -> Picture:
    path, held, captions, *told = row
    return Picture(to_path(path), held and tuple(json.loads(held)), json.loads(captions), *told)
