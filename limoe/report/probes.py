"""Linear probes in the report: what a classifier reads from each contestant's pictures, and LIMoE against each, adjusted apart.

They are a family of tests of their own, so that a set with training pictures changes no verdict on zero-shot scores.
"""

from __future__ import annotations

from collections.abc import Sequence

from limoe.config import CompareParams
from limoe.evals.metrics import is_probe
from limoe.report.document import Block, Cell, Prose, Section, Table
from limoe.report.evidence import Evidence
from limoe.report.names import metric_name, title
from limoe.report.scores import Measured, duels, reported_sets
from limoe.report.tables import duel_table
from limoe.report.verdict import percent, span

WHAT = (
    "A linear classifier learns from labelled training pictures, on what each model's embedding of a picture is projected from, "
    "and is scored on the test pictures: class names have no part in it. **k-shot**: ridge regression on k pictures of a class, "
    "the same for every model; the mean over random draws, and their standard deviation (sd) where there are several. **All "
    "pictures**: logistic regression whose strength was chosen on held-out training pictures. The interval covers the choice of "
    "test pictures, the deviation the luck of the draw."
)
TESTS = "LIMoE against each baseline, probe by probe; adjusted as a family of its own"


def probes_section(evidence: Sequence[Evidence], measured: Sequence[Measured], params: CompareParams) -> list[Section]:
    """The tables, none where no reported set was probed."""
    mine = [one for one in measured if is_probe(one.metric) and one.set in reported_sets(evidence)]
    if not mine:
        return []
    tests = duels(evidence, params, tuple(dict.fromkeys(one.metric for one in mine)))
    blocks: list[Block] = [Prose(WHAT), _scores(mine, evidence), duel_table(tests, TESTS)]
    return [Section("probes", "Linear probes", blocks)]


def _scores(mine: Sequence[Measured], evidence: Sequence[Evidence]) -> Table:
    """One row a set and probe, one column a contestant."""
    cells = {(one.set, one.metric, one.model): one for one in mine}
    rows = [
        [
            Cell(name, metric_name(metric)),
            *(_score(cells[name, metric, one.name], one) for one in evidence),
            Cell(f"{(n := evidence[0].scores[name, metric][1]):,}", sort=n),
        ]
        for name, metric in dict.fromkeys((one.set, one.metric) for one in mine)
    ]
    columns = ["Set", *(title(one.name) for one in evidence), "Pictures"]
    return Table("Top-1 of linear probes", columns, rows, frozenset(range(1, len(columns))))


def _score(measured: Measured, one: Evidence) -> Cell:
    note, spread = span(measured.low, measured.high), one.scores.get((measured.set, f"{measured.metric}/sd"))
    if spread is not None:
        note += f"; sd {100 * spread[0]:.1f} over {spread[1]} draws"
    return Cell(percent(measured.value), note, measured.value)
