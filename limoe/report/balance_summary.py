"""The balance analysis on the terminal: what `limoe balance` prints."""

from __future__ import annotations

from limoe.data.balance import BalanceReport
from limoe.report.balance import headline


def print_summary(report: BalanceReport) -> None:
    """The headline, a table by source, and the warnings."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table("drawn for", "rows", "text tokens", "image : text", "cut", "tau text", "tau image", box=SIMPLE)
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
