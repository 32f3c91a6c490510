"""The balance analysis on the terminal: what `limoe balance` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limoe.data.balance import BalanceReport
from limoe.report.balance import headline
from limoe.train.untrained import Untrained, warnings

if TYPE_CHECKING:
    from rich.table import Table


def print_summary(report: BalanceReport, fresh: Untrained | None) -> None:
    """The headline, a table by source, what an untrained model drops, and the warnings."""
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
    console.print(headline(report, fresh))
    console.print(table)
    if fresh is not None:
        console.print(drop_lines(report, fresh))
    for warning in (*report.warnings, *warnings(fresh)):
        console.print(f"note: {warning}", markup=False)


def drop_lines(report: BalanceReport, fresh: Untrained) -> Table:
    """A line a priority rule: what an untrained model drops, and what uniform routing would."""
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table("untrained, first step", "text dropped", "images dropped", "uniform: text", "images", box=SIMPLE)
    for column in table.columns[1:]:
        column.justify = "right"
    for rule in fresh.rules:
        found = [f"{one.mean:.1%} ± {100 * one.deviation:.1f}" for one in rule.dropped]
        uniform = report.scopes[0].routing.random_dropped.get(rule.name)
        closed = ["", ""] if uniform is None else [f"{one:.1%}" for one in uniform]
        table.add_row(rule.name + (" (in use)" if rule.name == fresh.chosen else ""), *found, *closed)
    return table
