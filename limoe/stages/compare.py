"""The `compare` stage: what every contestant's training and evaluation left in; one table, its plots and a verdict out.

Outs, in `report/`: metrics.json (a list of rows: model, set, metric, value, low, high, n), report.md and report.html. Beside them
timing.md, which is no out: seconds and memory differ between two equal runs.
"""

from __future__ import annotations

from limoe.config import CONTESTANTS, Params
from limoe.files import write_json, write_text
from limoe.paths import Paths
from limoe.report.lineup import load_lineup
from limoe.report.markdown import to_markdown
from limoe.report.page import to_html
from limoe.report.scores import duels, measure
from limoe.report.story import tell
from limoe.report.timing import timing_markdown, timing_table

PAGE, TIMING = "report.html", "timing.md"


def run(params: Params, paths: Paths) -> None:
    """Compare limoe with each baseline and further contestant."""
    lineup = load_lineup(paths, params.compare)
    evidence = lineup.evidence
    measured = measure(evidence, params.compare, bins=int(evidence[0].provenance["evaluate"]["calibration_bins"]))
    document = tell(lineup, measured, duels(evidence, params.compare), params.compare, TIMING)
    write_json(paths.report / "metrics.json", [one.row() for one in measured])
    write_text(paths.report / "report.md", to_markdown(document, PAGE))
    write_text(paths.report / PAGE, to_html(document))
    write_text(paths.report / TIMING, timing_markdown(paths, CONTESTANTS))
    _say(document.headline, paths)


def _say(headline: str, paths: Paths) -> None:
    from rich.console import Console

    console = Console()
    console.print(headline, style="bold")
    console.print(timing_table(paths, CONTESTANTS))
