"""All that a table of trials says about its space: numbers only; pages and plots are drawn elsewhere."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from limoe.errors import UserError
from limoe.sweep.axes import Axis, guess_axes, parse_axes
from limoe.sweep.findings import Counts, Final, Pair, Reference, Sensitivity
from limoe.sweep.importance import FAILURE, QUALITY, failure, interactions, quality, quality_points
from limoe.sweep.recommend import recommend_rows
from limoe.sweep.rows import FINAL, SEARCH, Row, to_rows
from limoe.sweep.success import MARGIN, Points, count, curve, failures, find_reference, label, labelled_points, pair, share
from limoe.sweep.table import space_of
from limoe.sweep.warning import warn_early

__all__ = ["Sensitivity", "analyse"]
PAIRS = 6  # grids shown: the pairs with the strongest evidence
FEW_POINTS = 20
STEPS = "train.steps"  # searched or tied: then budgets differ on purpose


def analyse(table: pa.Table, space_document: Mapping[str, Any] | None = None, reference: float | None = None) -> Sensitivity:
    """What the table's search trials (all trials, if it has none) say about the space.

    space_document: a space's `document`; by default the table's own, else axes are guessed from the values. reference: a loss
    that success is measured against in place of this table's best robust recipe, such as another contestant's in the same budget.
    UserError for a table of several contestants.
    """
    everything = to_rows(table)
    contestants = sorted({row.contestant for row in everything})
    if len(contestants) > 1:
        raise UserError(f"the table holds trials of {' and '.join(contestants)}: recipes are told apart within one contestant")
    rows = [row for row in everything if row.phase == SEARCH] or everything
    document = space_document if space_document is not None else space_of(table)
    axes = guess_axes([row.values for row in rows]) if document is None else parse_axes(document)
    finals = [row for row in everything if row.phase == FINAL]
    found = find_reference(rows, axes, finals) if reference is None else Reference(reference, reference * (1 + MARGIN), {}, 0)
    limit = None if found is None else found.limit
    points, counts = labelled_points(rows, limit), count(rows, limit)
    acting = [*interactions(axes, FAILURE, points), *interactions(axes, QUALITY, quality_points(rows))]
    return Sensitivity(
        contestants=contestants,
        axes=[axis.facts() for axis in axes],
        counts=counts,
        reference=found,
        curves=[curve(axis, points) for axis in axes],
        pairs=_pairs(axes, points, [(one.first, one.second) for one in sorted(acting, key=lambda one: one.p)]),
        interactions=acting,
        quality=quality(axes, quality_points(rows)),
        failure=failure(axes, points),
        failures=failures(rows, limit),
        recommendation=recommend_rows(rows, axes, limit, finals),
        finals=_finals(finals, limit),
        early=warn_early(rows, limit),
        notes=_notes(rows, counts, document, reference is not None),
    )


def _pairs(axes: Sequence[Axis], points: Points, strongest: Sequence[tuple[str, str]]) -> list[Pair]:
    named = {axis.name: axis for axis in axes}
    return [pair(named[a], named[b], points) for a, b in list(dict.fromkeys(strongest))[:PAIRS]]


def _finals(rows: Sequence[Row], limit: float | None) -> list[Final]:
    found = []
    for point in sorted({row.point for row in rows}):
        own = [row for row in rows if row.point == point]
        losses = [row.loss for row in own if row.kind == "ok" and row.loss is not None]
        labels = [one for row in own if (one := label(row, limit)) is not None]
        mean = math.fsum(losses) / len(losses) if losses else None
        spread = statistics.stdev(losses) if len(losses) > 1 else None
        found.append(Final(point, own[0].values, losses, mean, spread, share(sum(labels), len(labels))))
    return found


def _notes(rows: Sequence[Row], counts: Counts, document: Mapping[str, Any] | None, borrowed: bool) -> list[str]:
    """What the reader must know of how the figures came about."""
    budgets = sorted({row.steps_planned for row in rows})
    seconds = [row.seconds for row in rows if row.seconds > 0]
    told = [
        (counts.trials == 0, "There are no trials yet."),
        (
            counts.pruned > 0,
            f"{counts.pruned} pruned trials are left out: how they would have ended is unknown.",
        ),
        (counts.excluded > 0, f"{counts.excluded} trials that the machine or a mistake ended (killed, error) are left out."),
        (0 < counts.points < FEW_POINTS, f"{counts.points} points are few: most intervals say little."),
        (counts.trials > 0 and counts.successes == 0, "No trial succeeded."),
        (0 < counts.labelled == counts.successes, "No trial failed: the space is too narrow to show where success ends."),
        (document is None, "The searched space is unknown: its ranges are those of the values that were tried."),
        (borrowed, "Success is measured against the robust optimum of another table."),
        (
            len(budgets) > 1 and STEPS not in (document or {}),
            f"Budgets differ ({', '.join(map(str, budgets))} steps), and one loss is the measure of all.",
        ),
        (len(seconds) > 0, f"The trials took {sum(seconds) / 3600:.1f} hours in all."),
    ]
    return [sentence for true, sentence in told if true]
