"""The log of a training: it can be cut back to any checkpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Journal:
    """Rows as JSON lines; its length in bytes goes into each checkpoint, and a resumed training cuts it back to that."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    @property
    def length(self) -> int:
        """In bytes."""
        return self.path.stat().st_size

    def append(self, rows: list[dict[str, Any]]) -> None:
        """Add rows at the end."""
        with self.path.open("a", encoding="utf-8") as handle:
            handle.writelines(json.dumps(row) + "\n" for row in rows)

    def sync(self) -> None:
        """Make all that was appended durable."""
        with self.path.open("rb") as handle:
            os.fsync(handle.fileno())

    def cut(self, length: int) -> None:
        """Forget all after `length` bytes."""
        with self.path.open("r+b") as handle:
            handle.truncate(length)

    def rows(self, start: int = 0) -> list[dict[str, Any]]:
        """All rows that begin at byte `start` or later."""
        return [row for row, _ in self.read(start)]

    def read(self, start: int) -> Iterator[tuple[dict[str, Any], int]]:
        """(row, byte at which it ends) of each of them. What a killed process left of its last line is no row."""
        with self.path.open("rb") as handle:
            handle.seek(start)
            for line in handle:
                start += len(line)
                if line.endswith(b"\n"):
                    yield json.loads(line), start
