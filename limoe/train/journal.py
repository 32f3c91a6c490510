"""The log of a training: it can be cut back to any checkpoint."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Journal:
    """Rows as JSON lines; its length in bytes goes into each checkpoint, and a resumed training cuts it back to that."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def append(self, rows: list[dict[str, Any]]) -> None:
        """Add rows at the end."""
        with self.path.open("a", encoding="utf-8") as handle:
            handle.writelines(json.dumps(row) + "\n" for row in rows)

    def sync(self) -> int:
        """Make all that was appended durable; its length in bytes."""
        with self.path.open("rb") as handle:
            os.fsync(handle.fileno())
        return self.path.stat().st_size

    def cut(self, length: int) -> None:
        """Forget all after `length` bytes."""
        with self.path.open("r+b") as handle:
            handle.truncate(length)

    def rows(self, start: int = 0) -> list[dict[str, Any]]:
        """All rows that begin at byte `start` or later."""
        with self.path.open("rb") as handle:
            handle.seek(start)
            return [json.loads(line) for line in handle]
