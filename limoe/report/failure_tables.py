"""Tables of a sweep's failures and of what warns of them early. `facts` is `Sensitivity.to_dict()` of limoe/sweep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limoe.report.document import Cell, Table
from limoe.report.values import between, probability, value_of

Facts = Mapping[str, Any]
FIGURES = {
    "combined": "all figures together",
    "loss": "contrastive loss over ln(batch)",
    "gradient_norm": "gradient norm",
    "logit_scale": "learned logit scale",
    "text_placed_min": "text placed",
    "image_placed_min": "image tokens placed",
    "text_effective_min": "effective text experts",
    "image_effective_min": "effective image experts",
    "text_confidence_min": "gate confidence of text",
    "image_confidence_min": "gate confidence of images",
    "text_logits_max": "router logits of text",
    "image_logits_max": "router logits of images",
    "dead_experts_max": "dead experts",
}
KINDS = {
    "ok": "finished without an alarm",
    "diverged": "loss or gradients left all bounds",
    "collapsed": "a block stopped placing a modality's tokens, or sent them to almost no expert",
    "unhealthy": "finished, but with an alarm: temperature, loss at chance, or dead experts",
    "behind": "finished without an alarm, its loss above the limit",
    "oom": "ran out of memory",
    "pruned": "stopped by the sweep because others did better: neither success nor failure",
    "killed": "ended by a signal: not counted",
    "error": "a mistake or a bug: not counted",
}


def outcome_table(facts: Facts) -> Table:
    """Trials by what became of them."""
    counts = facts["counts"]
    behind = sum(one["kind"] == "behind" for one in facts["failures"])
    kinds = {kind: number for kind, number in counts["by_kind"].items() if number}
    rows = [[Cell(f"`{kind}`"), _of(number, counts["trials"]), Cell(KINDS.get(kind, ""))] for kind, number in kinds.items()]
    if behind:
        rows.append([Cell("`behind`", "among ok"), _of(behind, counts["trials"]), Cell(KINDS["behind"])])
    rows.sort(key=lambda row: -(row[1].sort or 0))
    return Table(f"What became of {counts['trials']} trials", ["Outcome", "Trials", "What it means"], rows, frozenset({1}))


def _of(number: int, total: int) -> Cell:
    return Cell(str(number), f"{number / max(1, total):.0%}", number)


def where_table(facts: Facts) -> Table | None:
    """Collapses by modality and block; None without any."""
    found: dict[tuple[str, int], int] = {}
    for one in facts["failures"]:
        if one["kind"] == "collapsed" and one["modality"] is not None and one["layer"] is not None:
            key = one["modality"], one["layer"]
            found[key] = found.get(key, 0) + 1
    rows = [[Cell(modality), Cell(f"block {layer}"), Cell(str(n), sort=n)] for (modality, layer), n in sorted(found.items())]
    return Table("Collapses by modality and first block", ["Modality", "Where", "Trials"], rows, frozenset({2})) if rows else None


def failure_table(facts: Facts) -> Table:
    """Every failure with its evidence."""
    names = [axis["name"] for axis in facts["axes"]]
    rows = [
        [
            Cell(f"{one['point']}", f"seed {one['seed']}", one["point"]),
            Cell(f"`{one['kind']}`"),
            Cell(str(one["step"]), sort=one["step"]),
            *(Cell(value_of(one["values"], name), sort=_number(one["values"].get(name))) for name in names),
            Cell(one["evidence"]),
        ]
        for one in facts["failures"]
    ]
    columns = ["Point", "Kind", "Step", *(f"`{name}`" for name in names), "Evidence"]
    return Table("Every failure", columns, rows, frozenset({0, *range(2, 3 + len(names))}))


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def early_table(early: Facts) -> Table:
    """How well each figure, at one share of the budget, tells failures from successes."""
    rows = [
        [
            Cell(FIGURES.get(one["name"], one["name"]), f"{one['failing']} in failures" if one["failing"] else ""),
            Cell("–", one["reason"] or "", -1.0) if one["auc"] is None else Cell(f"{one['auc']:.2f}", _auc_span(one), one["auc"]),
            _share(one["caught"]),
            _share(one["false_alarms"]),
        ]
        for one in early["predictors"]
    ]
    caption = (
        f"At {early['fraction']:.0%} of the budget: {early['failures']} trials that failed later, {early['successes']} that "
        f"succeeded; {early['over']} had failed before"
    )
    columns = ["Figure", "Area under ROC", "Failures caught", "False alarms"]
    return Table(caption, columns, rows, frozenset({1, 2, 3}))


def _auc_span(one: Facts) -> str:
    return "" if one["lower"] is None else f"{one['lower']:.2f} to {one['upper']:.2f}"


def _share(share: Facts | None) -> Cell:
    if share is None or share["probability"] is None:
        return Cell("–", sort=-1.0)
    return Cell(probability(share), f"{between(share)}; {share['hits']:.0f} of {share['n']:.0f}", share["probability"])
