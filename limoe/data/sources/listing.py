"""What is known of pictures before any is opened, in a temporary file: memory does not grow with their number."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import astuple, dataclass, field
from typing import Any

from limoe.data.scratch import scratch, to_blob, to_path
from limoe.data.sources.base import Rejected

TABLES = """
CREATE TABLE refused (number INTEGER PRIMARY KEY, key, source, reason, detail);
CREATE TABLE pictures (
    number INTEGER PRIMARY KEY, path UNIQUE NOT NULL, held, captions, label, split, named_group
);
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


class Listing:
    """Pictures, each path once, in the order in which they came, and rejected rows. In a scratch file."""

    def __init__(self) -> None:
        """Empty."""
        self._file = scratch(TABLES)

    def add(self, picture: Picture) -> bool:
        """Whether the picture is new; if its path is there already, nothing is done."""
        return (
            self._file.execute(
                "INSERT INTO pictures VALUES (NULL, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", _row(picture)
            ).rowcount
            == 1
        )

    def __getitem__(self, path: str) -> Picture:
        """The picture of this path, which is there."""
        return _picture(self._file.execute(f"{PICTURE} WHERE path = ?", (to_blob(path),)).fetchone())

    def replace(self, picture: Picture) -> None:
        """Write what is known of the picture, which is there; its place stays."""
        path, *told = _row(picture)
        changes = "held = ?, captions = ?, label = ?, split = ?, named_group = ?"
        self._file.execute(f"UPDATE pictures SET {changes} WHERE path = ?", (*told, path))

    def pictures(self, start: int, stop: int) -> Iterator[Picture]:
        """Those from `start` up to `stop`."""
        places = (start, stop)
        return map(_picture, self._file.execute(f"{PICTURE} WHERE number > ? AND number <= ? ORDER BY number", places))

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


def _row(picture: Picture) -> tuple[Any, ...]:
    """The columns but the number."""
    held = None if picture.held is None else json.dumps(picture.held)
    return to_blob(picture.path), held, json.dumps(picture.captions), picture.label, picture.split, picture.group


def _picture(row: tuple[Any, ...]) -> Picture:
    path, held, captions, *told = row
    return Picture(to_path(path), held and tuple(json.loads(held)), json.loads(captions), *told)
