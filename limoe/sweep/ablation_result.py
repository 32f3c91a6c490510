"""What an ablation says: per variant how good, how safe, how much text is placed, how specialised its experts are.

Loss is the mean over trainings that ran to their end, collapsed ones included (a collapse is no loss); a spread is the standard
deviation over seeds (n - 1). The difference to the full recipe is paired by seed: equal seeds see equal data in equal order. An
expert is *specific* to a modality if at least 95% of the tokens placed with it over the last 50 steps are of that modality.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from limoe.report.routing import LAST_STEPS, MODALITIES, RoutingLog
from limoe.sweep.findings import Share
from limoe.sweep.rows import Row, to_rows
from limoe.sweep.success import MARGIN, label, share
from limoe.sweep.table import collect
from limoe.sweep.variants import FULL, Study

SPECIFIC = 0.95
CONFIDENCE = 0.975  # quantile of a two-sided 95% interval
ROUTING = ("text_placed", "text_experts", "image_experts", "experts")
PREFIX = "end/"  # of the columns that an ablation's table has beyond a sweep's
STUDY = b"study"
Trial = tuple[Row, dict[str, float | None]]  # and its routing at the end


@dataclass(frozen=True)
class Difference:
    """Mean over `pairs` seeds of this variant's loss minus the full recipe's, and its 95% t-interval (None for one pair)."""

    mean: float
    lower: float | None
    upper: float | None
    pairs: int


@dataclass(frozen=True)
class Line:
    """A variant. loss, spread: over `finished` of `trials` trainings; spread None for one. success: with interval. kinds: trials
    by outcome. text_placed: share, of the MoE block that places least. text_experts, image_experts: specific ones of `experts`,
    mean over MoE blocks. None where no training says it."""

    key: str
    group: str
    note: str
    trials: int
    finished: int
    loss: float | None
    spread: float | None
    success: Share
    kinds: dict[str, int]
    text_placed: float | None
    text_experts: float | None
    image_experts: float | None
    experts: float | None
    difference: Difference | None


@dataclass(frozen=True)
class AblationResult:
    """lines: the full recipe first, the others in the study's order. limit: the loss up to which a training counts as success.
    omitted: variants that were not run, and why."""

    lines: list[Line]
    limit: float | None
    seeds: int
    omitted: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def routing_end(folder: Path) -> dict[str, float]:
    """What a trial's routing.parquet says of the last 50 steps, under the names ROUTING; nothing without one."""
    path = folder / "routing.parquet"
    log = RoutingLog.of(pq.read_table(path, partitioning=None)) if path.exists() else None
    if log is None or log.empty:
        return {}
    placed_LME = log.placed_SLME[log.steps_S > log.steps_S[-1] - LAST_STEPS].sum(0)
    share_LME = placed_LME / np.maximum(placed_LME.sum(1, keepdims=True), 1)
    specific_LM = (share_LME >= SPECIFIC).sum(-1)
    text, image = (MODALITIES.index(name) for name in ("text", "image"))
    return {
        "text_placed": float(log.last(log.placed_SLM)[:, text].min()),
        "text_experts": float(specific_LM[:, text].mean()),
        "image_experts": float(specific_LM[:, image].mean()),
        "experts": float(placed_LME.shape[-1]),
    }


def collect_ablation(folder: Path, study: Study) -> pa.Table:
    """The table of an ablation's trials: a sweep's, ROUTING at the end as columns `end/...`, and the study in its metadata."""
    table = collect(folder)
    ends = [routing_end(folder / "trials" / name) for name in table["fingerprint"].to_pylist()]
    for name in ROUTING:
        table = table.append_column(PREFIX + name, pa.array([end.get(name) for end in ends], pa.float64()))
    variants = [{"key": one.key, "group": one.group, "note": one.note} for one in study.variants]
    metadata = {"study": json.dumps({"variants": variants, "omitted": study.omitted})}
    return table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata})


def is_ablation(table: pa.Table) -> bool:
    """Whether the table is one that `collect_ablation` made."""
    return STUDY in (table.schema.metadata or {})


def analyse_ablation(table: pa.Table) -> AblationResult:
    """What the trials of an ablation's table say about its variants; those without a trial are left out."""
    study = json.loads(table.schema.metadata[STUDY])
    rows = to_rows(table)
    by_group: dict[str, list[Trial]] = {}
    for place, row in enumerate(rows):
        by_group.setdefault(row.group, []).append((row, {name: table[PREFIX + name][place].as_py() for name in ROUTING}))
    full = _losses(by_group.get(FULL, []))
    limit = statistics.fmean(full.values()) * (1 + MARGIN) if full else None
    tried = [one for one in study["variants"] if one["key"] in by_group]
    lines = [_line(one, by_group[one["key"]], full, limit) for one in tried]
    return AblationResult(lines, limit, max((line.trials for line in lines), default=0), study["omitted"])


def _losses(group: Sequence[Trial]) -> dict[int, float]:
    """Loss by seed, of the trainings that ran to their end."""
    ran = ("ok", "collapsed", "unhealthy")
    found = ((row, row.loss) for row, _ in group if row.kind in ran and row.step >= row.steps_planned)
    return {row.seed: loss for row, loss in found if loss is not None and math.isfinite(loss)}


def _line(variant: dict[str, str], trials: Sequence[Trial], full: dict[int, float], limit: float | None) -> Line:
    losses = _losses(trials)
    labels = [success for row, _ in trials if (success := label(row, limit)) is not None]
    means = {name: _mean([value for _, end in trials if (value := end[name]) is not None]) for name in ROUTING}
    return Line(
        key=variant["key"],
        group=variant["group"],
        note=variant["note"],
        trials=len(trials),
        finished=len(losses),
        loss=_mean(list(losses.values())),
        spread=statistics.stdev(losses.values()) if len(losses) > 1 else None,
        success=share(sum(labels), len(labels)),
        kinds=dict(sorted(Counter(row.kind for row, _ in trials).items())),
        difference=None if variant["key"] == FULL else paired(losses, full),
        text_placed=means["text_placed"],
        text_experts=means["text_experts"],
        image_experts=means["image_experts"],
        experts=means["experts"],
    )


def paired(losses: dict[int, float], full: dict[int, float]) -> Difference | None:
    """The difference by seed, over the seeds that both have; None without one.

    >>> one = paired({0: 3.1, 1: 3.3}, {0: 3.0, 1: 3.0})
    >>> round(one.mean, 3), round(one.upper - one.mean, 3)  # 0.1, 0.3: t(0.975, 1) = 12.706 times 0.1
    (0.2, 1.271)
    """
    from scipy import stats

    differences = [losses[seed] - full[seed] for seed in sorted(set(losses) & set(full))]
    if not differences:
        return None
    mean, pairs = statistics.fmean(differences), len(differences)
    if pairs == 1:
        return Difference(mean, None, None, 1)
    half = float(stats.t.ppf(CONFIDENCE, pairs - 1)) * statistics.stdev(differences) / math.sqrt(pairs)
    return Difference(mean, mean - half, mean + half, pairs)


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None
