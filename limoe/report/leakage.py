"""Test pictures that the training has seen, and what the scores are without them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from limoe.evals.seen import Leakage
from limoe.report.document import Block, Cell, Prose, Section, Table
from limoe.report.evidence import Evidence
from limoe.report.names import METRICS, title
from limoe.report.scores import reported_sets
from limoe.report.verdict import percent

WITHOUT = ("top1", "i2t_r1")  # whose items are pictures; the first that a set has
NEAR = (
    "Byte for byte: the training set holds the same file. Nearly: perceptual hashes differ in a few bits at most. Of photos that "
    "is the same photo, saved again, resized or a little brighter; drawings and composed scenes may be near each other by a like "
    "outline, as flags or one gesture in two skin tones are. Plain pictures have no such hash: they are compared byte for byte "
    "alone. Probed: tested pictures that are byte for byte among those that the set's own probes learn from. What else a model "
    "that was not trained here has seen is not known."
)


def warnings(evidence: Sequence[Evidence]) -> list[Block]:
    """A sentence for each reported set that leaks."""
    tests = reported_sets(evidence)
    return [
        Prose(f"**Leakage**: {sentence}. [What leaks](#leakage).")
        for one in evidence[0].leakage
        if one.set in tests
        for sentence in one.sentences
    ]


def leakage_section(evidence: Sequence[Evidence]) -> Section:
    """Every set's leaked pictures, and each contestant's main score without them."""
    columns = ["Set", "Pictures", "Byte for byte", "Nearly", "Plain", "Probed", "Score", *(title(one.name) for one in evidence)]
    rows = [_row(leakage, evidence) for leakage in evidence[0].leakage]
    numeric = frozenset(range(1, len(columns))) - {columns.index("Score")}
    table = Table(
        "Evaluated pictures that are training pictures or resemble one, and scores without them", columns, rows, numeric
    )
    return Section("leakage", "Leakage", [table, Prose(NEAR, "quiet")])


def _row(leakage: Leakage, evidence: Sequence[Evidence]) -> list[Cell]:
    counts = [leakage.n, leakage.exact, leakage.near, leakage.plain, leakage.probed]
    metric = next((metric for metric in WITHOUT if (leakage.set, metric) in evidence[0].items), None)
    scores = [Cell("", sort=-1.0) if metric is None else _without(leakage, one, metric) for one in evidence]
    return [
        Cell(leakage.set),
        *(Cell(f"{count:,}", sort=count) for count in counts),
        Cell(METRICS.get(metric or "", "")),
        *scores,
    ]


def _without(leakage: Leakage, one: Evidence, metric: str) -> Cell:
    """The score over the pictures that are not leaked; those that are stay candidates."""
    seen = {picture.key for picture in leakage.seen}
    kept_N = np.array([key not in seen for key in one.items[leakage.set, metric].keys])
    values_N = one.values(leakage.set, metric)
    if not kept_N.any():
        return Cell("none left", f"with them {percent(float(values_N.mean()))}", -1.0)
    score = float(values_N[kept_N].mean())
    return Cell(percent(score), f"with them {percent(float(values_N.mean()))}" if seen else "", score)
