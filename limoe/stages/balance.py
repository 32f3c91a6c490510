"""Stage 2: data/prepared -> runs/balance (balance.json for DVC, report.json with everything, two PNG plots, balance.html)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from limoe.config import Params, Paths
from limoe.data.balance import BalanceReport, analyse
from limoe.data.prepared import Prepared
from limoe.files import atomic_directory, write_bytes, write_json, write_text
from limoe.report.balance import document, headline
from limoe.report.page import to_html
from limoe.report.stills import caption_lengths, tokens


def run(params: Params, paths: Paths) -> None:
    """Analyse the training and validation splits, write what came of it and print its summary."""
    start = time.perf_counter()
    report = analyse(Prepared(paths.prepared), params.model, params.balance, bar)
    with atomic_directory(paths.balance) as folder:
        write_json(folder / "balance.json", report.metrics())
        write_json(folder / "report.json", report.to_dict())
        write_bytes(folder / "caption_lengths.png", caption_lengths(report))
        write_bytes(folder / "tokens.png", tokens(report))
        write_text(folder / "balance.html", to_html(document(report)))
    write_json(paths.timing("balance"), {"seconds": round(time.perf_counter() - start, 3)})
    print_summary(report)
    print(f"all figures and plots: {paths.balance / 'balance.html'}")


def bar(steps: Sequence[int], what: str) -> Iterable[int]:
    """`steps`, with a progress bar that disappears at the end; none where there is no terminal."""
    from rich.console import Console
    from rich.progress import track

    return track(steps, description=what, transient=True, disable=not Console().is_terminal)


def print_summary(report: BalanceReport) -> None:
    """The headline, a table by source, and the warnings."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table("source", "rows", "text tokens", "image : text", "cut", "tau text", "tau image", box=SIMPLE)
    for column in table.columns[1:]:
        column.justify = "right"
    for scope in report.scopes:
        routing = scope.routing
        table.add_row(
            scope.name,
            f"{scope.rows:,}",
            f"{scope.lengths.mean:.1f}",
            f"{scope.ratio:.1f} : 1",
            f"{scope.lengths.truncated:.1%}",
            f"{routing.tau_text:.2f}",
            f"{routing.tau_image:.2f}",
        )
    console = Console()
    console.print(headline(report))
    console.print(table)
    for warning in report.warnings:
        console.print(f"note: {warning}", markup=False)
