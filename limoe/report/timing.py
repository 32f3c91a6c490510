"""What differs between two equal runs: seconds and memory, from `.limoe/timing/`. Shown beside the report, never in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from limoe.config import Contestant, Paths
from limoe.files import read_json
from limoe.report.names import MODELS

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = {
    "step_ms_median": "median step, ms",
    "seconds": "training, s",
    "steps": "steps timed",
    "peak_rss_mb": "peak memory, MB",
    "device": "device",
    "threads": "threads",
    "precision": "precision",
}
UNKNOWN = "–"


def timing_rows(paths: Paths, names: Sequence[Contestant]) -> list[list[str]]:
    """One row a contestant: its name and COLUMNS. A training whose result came from DVC's cache was not timed on this machine."""
    return [[MODELS[name], *_row(paths, name)] for name in names]


def _row(paths: Paths, name: Contestant) -> list[str]:
    path = paths.timing(f"train-{name}")
    values: dict[str, Any] = read_json(path) if path.exists() else {}
    return [UNKNOWN if values.get(column) is None else str(values[column]) for column in COLUMNS]


def timing_markdown(paths: Paths, names: Sequence[Contestant]) -> str:
    """The rows as a Markdown file."""
    lines = [["Model", *COLUMNS.values()], ["---"] * (len(COLUMNS) + 1), *timing_rows(paths, names)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    note = (
        "Of the last trainings on this machine; no two runs agree on these, so the report leaves them out. A training that was "
        "interrupted counts from its last start; one whose result came from DVC's cache has no figures."
    )
    return f"# Wall clock and memory\n\n{note}\n\n{table}\n"


def timing_table(paths: Paths, names: Sequence[Contestant]) -> Table:
    """The rows for a terminal."""
    from rich.table import Table

    table = Table("Model", *COLUMNS.values(), title="Wall clock and memory of the trainings")
    for row in timing_rows(paths, names):
        table.add_row(*row)
    return table
