"""What differs between two equal runs: seconds and memory, from `.limoe/timing/`. Shown beside the report, never in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from limoe.config import Contestant
from limoe.files import read_json
from limoe.paths import Paths
from limoe.report.names import MODELS

if TYPE_CHECKING:
    from rich.table import Table

FIGURES = {
    "step_ms_median": "median step, ms",
    "seconds": "training, s",
    "joules": "energy of the GPU in training, J",
    "steps": "steps timed",
    "pairs_per_s": "pairs a second",
    "tokens_per_s": "tokens a second",
    "tflops": "model TFLOP/s",
    "ceiling_tflops": "matrix products here, TFLOP/s",
    "mfu": "MFU",
    "peak_rss_mb": "peak memory, MB",
    "peak_gpu_mb": "peak GPU memory, MB",
    "micro_batch": "pairs held at a time",
    "device": "device",
    "processes": "processes",
    "threads": "threads of each",
    "precision": "precision",
}
UNKNOWN = "–"
NOTE = (
    "Of the last trainings on this machine; no two runs agree on these, so the report leaves them out. The seconds of a "
    "training that was interrupted are those of all its steps, and so are its joules, which NVML counts for the whole card; one "
    "whose result came from DVC's cache has no figures. MFU: the share of a GPU's measured matrix products that the model's own "
    "FLOPs, forward and backward, make up."
)


def timing_rows(paths: Paths, names: Sequence[Contestant]) -> list[list[str]]:
    """One row a figure: its name, and each contestant's."""
    columns = [_figures(paths, name) for name in names]
    return [[title, *(column[figure] for column in columns)] for figure, title in FIGURES.items()]


def _figures(paths: Paths, name: Contestant) -> dict[str, str]:
    path = paths.timing(f"train-{name}")
    values: dict[str, Any] = read_json(path) if path.exists() else {}
    return {figure: UNKNOWN if values.get(figure) is None else str(values[figure]) for figure in FIGURES}


def timing_markdown(paths: Paths, names: Sequence[Contestant]) -> str:
    """The rows as a Markdown file."""
    lines = [["", *(MODELS[name] for name in names)], ["---"] + ["---:"] * len(names), *timing_rows(paths, names)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"# Wall clock and memory\n\n{NOTE}\n\n{table}\n"


def timing_table(paths: Paths, names: Sequence[Contestant]) -> Table:
    """The rows for a terminal."""
    from rich.table import Table

    table = Table("Wall clock and memory", *(MODELS[name] for name in names))
    for row in timing_rows(paths, names):
        table.add_row(*row)
    return table
