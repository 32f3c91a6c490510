"""reports.jsonl in a trial's directory: the objective as it was measured on the way, one row a report."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

FILE = "reports.jsonl"


def read_reports(folder: Path) -> list[dict[str, Any]]:
    """All whole rows ({"step", "seconds", "loss", ...}), in the order of their steps; a row that is just being written is not."""
    return whole_rows(folder / FILE)


def whole_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines that another process may be writing; none if there is no file."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def append_report(folder: Path, row: dict[str, Any]) -> None:
    """Add a row, durably; half a row that a killed process left goes."""
    path = folder / FILE
    path.touch()
    with path.open("r+b") as handle:
        handle.truncate(handle.read().rfind(b"\n") + 1)
        handle.seek(0, os.SEEK_END)
        handle.write(json.dumps(row, allow_nan=False).encode() + b"\n")
        handle.flush()
        os.fsync(handle.fileno())
