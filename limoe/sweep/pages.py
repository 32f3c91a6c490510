"""What a sweep and an ablation leave to read: sensitivity.json, report.html, report.md, a table and plots, in their folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from limoe.files import atomic_directory, write_bytes, write_json, write_text
from limoe.report import ablation as ablation_report
from limoe.report import ablation_figures, sensitivity_stills
from limoe.report.document import Document
from limoe.report.markdown import to_markdown
from limoe.report.page import to_html
from limoe.report.sensitivity import tell
from limoe.sweep import table as tables
from limoe.sweep.ablation_result import AblationResult, analyse_ablation, collect_ablation
from limoe.sweep.findings import Sensitivity
from limoe.sweep.rows import SEARCH, to_rows
from limoe.sweep.success import label
from limoe.sweep.variants import Study

PAGE, MARKDOWN, FACTS, TRIALS, PLOTS = "report.html", "report.md", "sensitivity.json", "trials.parquet", "plots"
CSV = "ablation.csv"


def trials_of(table: pa.Table, found: Sensitivity) -> list[dict[str, Any]]:
    """The search's trials as the report shows them: point, seed, kind, values, and success (None without a label)."""
    rows = to_rows(table)
    limit = None if found.reference is None else found.reference.limit
    return [
        {"point": row.point, "seed": row.seed, "kind": row.kind, "values": row.values, "success": label(row, limit)}
        for row in [row for row in rows if row.phase == SEARCH] or rows
    ]


def report_sweep(folder: Path) -> tuple[Sensitivity, Document]:
    """Collect a sweep's trials, analyse them and write table, facts, report and plots into its folder.

    A folder without trials of its own but with a table of them is read from that.
    """
    from limoe.sweep.sensitivity import analyse  # scikit-learn's forests: seconds that a flow need not begin with

    collected = (folder / "trials").is_dir()
    table = tables.collect(folder) if collected else tables.read(folder / TRIALS)
    if collected:
        tables.write(table, folder / TRIALS)
    found = analyse(table)
    facts, trials = found.to_dict(), trials_of(table, found)
    document = tell(facts, trials, folder.name)
    write_json(folder / FACTS, facts)
    _write(folder, document, sensitivity_stills.stills(facts, trials))
    return found, document


def report_ablation(folder: Path, study: Study) -> tuple[AblationResult, Document]:
    """Likewise for an ablation, whose table is written as CSV too."""
    table = collect_ablation(folder, study)
    tables.write(table, folder / TRIALS)
    found = analyse_ablation(table)
    facts = found.to_dict()
    document = ablation_report.tell(facts, folder.name)
    write_text(folder / CSV, ablation_report.to_csv(facts))
    compared = [line for line in facts["lines"] if line["difference"] is not None]
    _write(folder, document, {"differences": ablation_figures.still(compared)} if compared else {})
    return found, document


def _write(folder: Path, document: Document, pictures: dict[str, bytes]) -> None:
    write_text(folder / PAGE, to_html(document))
    write_text(folder / MARKDOWN, to_markdown(document, PAGE))
    with atomic_directory(folder / PLOTS) as plots:
        for name, picture in pictures.items():
            write_bytes(plots / f"{name}.png", picture)
