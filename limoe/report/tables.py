"""The report's tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from limoe.files import flatten
from limoe.report.budget import Budget
from limoe.report.document import Cell, Table, Tone
from limoe.report.evidence import Evidence
from limoe.report.names import MAIN_METRICS, METRICS, in_sentence, metric_name, title
from limoe.report.published import NOTICE, ROWS
from limoe.report.routing import MODALITIES, RoutingLog
from limoe.report.scores import Duel, Measured
from limoe.report.verdict import count, percent, points, span

TONES: dict[str, Tone] = {"better": "good", "worse": "bad"}  # all else is quiet
UNKNOWN = Cell("unknown", sort=-1.0)


def score_table(measured: Sequence[Measured], evidence: Sequence[Evidence], caption: str) -> Table:
    """One row a set and metric, one column a contestant, each score with its interval."""
    cells: dict[tuple[str, str], dict[str, Measured]] = {}
    for one in measured:
        cells.setdefault((one.set, one.metric), {})[one.model] = one
    rows = [
        [
            Cell(name, metric_name(metric)),
            *(_score(models[one.name]) for one in evidence),
            _chance(evidence[0], name, metric),
            Cell(f"{next(iter(models.values())).n:,}", sort=next(iter(models.values())).n),
        ]
        for (name, metric), models in cells.items()
    ]
    columns = ["Set", *(title(one.name) for one in evidence), "Chance", "Items"]
    return Table(caption, columns, rows, frozenset(range(1, len(columns))))


def _score(one: Measured) -> Cell:
    return Cell(percent(one.value), span(one.low, one.high), one.value)


def _chance(evidence: Evidence, name: str, metric: str) -> Cell:
    chance, classes = evidence.scores.get((name, "chance"), (0.0, 0))
    if metric in ("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10", "calibration") or not classes:
        return Cell("", sort=-1)
    guessed = min(1.0, 5 * chance) if metric == "top5" else chance
    return Cell(percent(guessed, 2), sort=guessed)


def averaged_table(evidence: Sequence[Evidence], sets: Sequence[str], caption: str) -> Table | None:
    """The main scores of averaged weights on these sets, beside those of the last weights; None where no contestant has any."""
    having = [one for one in evidence if one.averaged]
    if not having:
        return None
    names = [(name, metric) for name, metric in having[0].averaged if name in sets and metric in MAIN_METRICS]
    rows = [[Cell(name, METRICS[metric]), *(_beside(one, name, metric) for one in having)] for name, metric in names]
    columns = ["Set", *(title(one.name) for one in having)]
    return Table(caption, columns, rows, frozenset(range(1, len(columns))))


def _beside(one: Evidence, name: str, metric: str) -> Cell:
    value, last = one.averaged[name, metric][0], one.scores[name, metric][0]
    return Cell(percent(value), f"last weights: {percent(last)}", value)


def duel_table(duels: Sequence[Duel], caption: str = "LIMoE against each baseline on the same items") -> Table:
    """LIMoE against each baseline, test by test."""
    columns = [
        "Test",
        "Against",
        "LIMoE",
        "Baseline",
        "Difference, points",
        "Items won / lost",
        "p (Holm)",
        "Verdict",
    ]
    rows = [
        [
            Cell(duel.set, metric_name(duel.metric)),
            Cell(title(duel.baseline), duel.unequal or "equal budget"),
            Cell(percent(duel.ours), sort=duel.ours),
            Cell(percent(duel.theirs), sort=duel.theirs),
            Cell(points(duel.paired.difference), _points_span(duel), duel.paired.difference),
            Cell(f"{duel.paired.wins} / {duel.paired.losses}", sort=duel.paired.wins - duel.paired.losses),
            Cell(p_value(duel.paired.p_holm), duel.paired.test, duel.paired.p_holm),
            verdict_cell(duel.verdict),
        ]
        for duel in duels
    ]
    return Table(caption, columns, rows, frozenset({2, 3, 4, 5, 6}))


def p_value(p: float) -> str:
    """A p in three decimals.

    >>> p_value(0.0004), p_value(0.0312)
    ('< 0.001', '0.031')
    """
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def verdict_cell(verdict: str) -> Cell:
    """A verdict, coloured where one model is better."""
    return Cell(verdict, tone=TONES.get(verdict, "quiet"))


def _points_span(duel: Duel) -> str:
    return f"{points(duel.paired.interval.low)} to {points(duel.paired.interval.high)}"


def cost_table(evidence: Sequence[Evidence]) -> Table:
    """What each contestant holds, computes, has seen and was tuned; numbers also as multiples of the dense tower's."""
    base = next(one for one in evidence if one.name == "dense")

    def row(name: str, note: str, of: Callable[[Budget], float | None]) -> list[Cell]:
        return [Cell(name, note), *(_multiple(of(one.budget), of(base.budget)) for one in evidence)]

    rows = [
        row("Parameters", "all", lambda budget: budget.params_total),
        row("Parameters", "active for one token", lambda budget: budget.params_active),
        row("FLOPs a pair", "forward", lambda budget: budget.forward),
        row("Pairs seen", "in training", lambda budget: budget.samples),
        row("FLOPs of the training", "three forward passes a pair", lambda budget: budget.training),
        [Cell("Tuning", "trials"), *(_tuning(one.budget.tuning) for one in evidence)],
        [Cell("Training data", "SHA-256"), *(_data(one.budget.data) for one in evidence)],
    ]
    columns = ["Cost", *(title(one.name) for one in evidence)]
    caption = f"Costs, and each as a multiple of what {in_sentence(base.name)} has"
    return Table(caption, columns, rows, frozenset(range(1, len(columns))))


def _multiple(value: float | None, base: float | None) -> Cell:
    if value is None or base is None:
        return UNKNOWN
    return Cell(count(value), f"{value / base:.3g} ×" if value >= 100 * base else f"{value / base:.2f} ×", value)


def _tuning(trials: int | None) -> Cell:
    return UNKNOWN if trials is None else Cell(f"{trials:,}", sort=trials)


def _data(digest: str | None) -> Cell:
    return UNKNOWN if digest is None else Cell(f"`{digest[:16]}`")


def routing_table(log: RoutingLog) -> Table:
    """Per MoE layer and modality: placed, effective experts, gate confidence; means over the last 50 steps."""
    placed, effective, confidence = log.last(log.placed_SLM), log.last(log.effective_SLM), log.last(log.confidence_SLM)
    experts = log.assigned_SLME.shape[-1]
    rows = [
        [
            Cell(f"block {block}", modality),
            Cell(percent(placed[layer, m]), sort=float(placed[layer, m])),
            Cell(f"{effective[layer, m]:.1f}", f"of {experts}", float(effective[layer, m])),
            Cell(f"{confidence[layer, m]:.2f}", sort=float(confidence[layer, m])),
        ]
        for layer, block in enumerate(log.layers_L)
        for m, modality in enumerate(MODALITIES)
    ]
    columns = ["Layer", "Tokens placed", "Effective experts", "Gate confidence"]
    return Table("Routing at the end of the training (mean of the last 50 steps)", columns, rows, frozenset({1, 2, 3}))


def published_table() -> Table:
    """Published rows, marked as such."""

    def cell(score: str | None) -> Cell:
        return Cell(score or "", sort=float(score.split()[0]) if score else -1.0)

    columns = [
        "Published model",
        "ImageNet top-1, %",
        "COCO picture to caption, R@1, %",
        "COCO caption to picture, R@1, %",
        "Source",
    ]
    rows = [[Cell(row.model), cell(row.imagenet), cell(row.coco_i2t), cell(row.coco_t2i), Cell(row.source)] for row in ROWS]
    return Table(NOTICE, columns, rows, frozenset({1, 2, 3}))


def settings_table(evidence: Sequence[Evidence]) -> Table:
    """Every setting of the training; a cell is empty where a contestant has no such setting."""
    trained = [one for one in evidence if one.settings]
    flat = [flatten(one.settings) for one in trained]
    names = sorted({name for settings in flat for name in settings})

    def value(settings: dict[str, Any], name: str) -> str:
        if name not in settings:
            return ""
        return "`null`" if settings[name] is None else f"`{settings[name]}`"

    rows = [[Cell(name), *(Cell(value(settings, name)) for settings in flat)] for name in names]
    return Table("Settings of the trainings", ["Setting", *(title(one.name) for one in trained)], rows)


def hash_table(evidence: Sequence[Evidence]) -> Table:
    """SHA-256 of what the scores belong to."""
    rows = [
        [Cell("prepared set"), *(Cell(f"`{one.provenance['data'][:16]}`") for one in evidence)],
        [Cell("tokenizer"), *(_tokenizer(one.provenance["tokenizer"]) for one in evidence)],
        [Cell("weights"), *(Cell(f"`{one.provenance['weights'][:16]}`") for one in evidence)],
    ]
    return Table("What the scores belong to (SHA-256, first 16 digits)", ["File", *(title(one.name) for one in evidence)], rows)


def _tokenizer(digest: str | None) -> Cell:
    return Cell("its own") if digest is None else Cell(f"`{digest[:16]}`")
