"""Every score with its interval, and LIMoE against each baseline: `limoe.evals.compare` over all the evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from limoe.config import SELECTION_SPLITS, CompareParams
from limoe.evals.compare import Interval, Paired, Resampler, adjust, calibration_interval, mean_intervals, paired
from limoe.evals.metrics import is_probe
from limoe.report.evidence import Evidence

FAMILIES = (("top1", "top5", "per_class"), ("i2t_r1", "i2t_r5", "i2t_r10"), ("t2i_r1", "t2i_r5", "t2i_r10"))
TESTED = ("top1", "i2t_r1", "t2i_r1")
AT_ANOTHER_BUDGET = {"better": "higher score", "worse": "lower score", "no difference shown": "no difference shown"}


@dataclass(frozen=True)
class Measured:
    """A score (a share, 0..1) of one model on one set, with its 95% interval, over n items."""

    model: str
    set: str
    metric: str
    value: float
    low: float
    high: float
    n: int

    def row(self) -> dict[str, Any]:
        """As report/metrics.json has it, to 6 decimals."""
        return {name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Duel:
    """LIMoE (score `ours`) against one baseline (score `theirs`) on one set and metric. unequal: how the baseline's budget
    differs from LIMoE's, "" if it does not."""

    set: str
    metric: str
    baseline: str
    ours: float
    theirs: float
    paired: Paired
    unequal: str = ""

    @property
    def verdict(self) -> str:
        """As of `Paired`; where budgets differ it is the score that is higher or lower, and no model better or worse."""
        return AT_ANOTHER_BUDGET[self.paired.verdict] if self.unequal else self.paired.verdict


def sets_of(evidence: Sequence[Evidence]) -> list[str]:
    """The sets that were scored, in the order of the results: test sets first."""
    return list(dict.fromkeys(name for name, _ in evidence[0].scores))


def is_selection(name: str) -> bool:
    """Whether a set (or a view of one) is for choosing settings, so that scores on it are no evidence."""
    return name.split("/", 1)[0] in SELECTION_SPLITS


def has_tests(evidence: Sequence[Evidence]) -> bool:
    """Whether any scored set is a test set."""
    return any(not is_selection(name) for name in sets_of(evidence))


def reported_sets(evidence: Sequence[Evidence]) -> list[str]:
    """The test sets; where there is none, the sets that settings are chosen on."""
    return [name for name in sets_of(evidence) if not is_selection(name) or not has_tests(evidence)]


def measure(evidence: Sequence[Evidence], params: CompareParams, bins: int) -> list[Measured]:
    """Every score with its interval, model by model, in the order of sets and metrics. bins: of the calibration error."""
    found = [
        measured
        for name in sets_of(evidence)
        for metrics in (*FAMILIES, probes(evidence[0], name))
        if metrics and (name, metrics[0]) in evidence[0].items
        for measured in _measure_family(evidence, name, metrics, params, bins)
    ]
    order = [one.name for one in evidence]
    return sorted(found, key=lambda measured: order.index(measured.model))


def probes(one: Evidence, name: str) -> tuple[str, ...]:
    """The linear probes of a set."""
    return tuple(metric for where, metric in one.items if where == name and is_probe(metric))


def duels(evidence: Sequence[Evidence], params: CompareParams, metrics: Sequence[str] = TESTED) -> list[Duel]:
    """The first contestant against each other one: these metrics of each reported set, adjusted as one family."""
    ours, *others = evidence
    bare = [
        Duel(
            name,
            metric,
            other.name,
            ours.scores[name, metric][0],
            other.scores[name, metric][0],
            _pair(ours, other, name, metric, params),
            ours.budget.difference(other.budget),
        )
        for other in others
        for name in reported_sets(evidence)
        for metric in metrics
        if (name, metric) in ours.items
    ]
    adjusted = adjust([duel.paired for duel in bare])
    return [replace(duel, paired=test) for duel, test in zip(bare, adjusted, strict=True)]


def _resampler(evidence: Evidence, name: str, metric: str, params: CompareParams) -> Resampler:
    """The same for every metric of a family, because their items are the same; probes have those of the first."""
    family = next((family for family in FAMILIES if metric in family), FAMILIES[0])
    return Resampler(evidence.items[name, metric].groups, params.bootstrap, params.seed, f"{name}/{family[0]}")


def _measure_family(
    evidence: Sequence[Evidence], name: str, metrics: Sequence[str], params: CompareParams, bins: int
) -> list[Measured]:
    resampler = _resampler(evidence[0], name, metrics[0], params)
    columns = [(one, metric) for one in evidence for metric in metrics]
    values_NC, weights_NC = (
        np.column_stack([read(one, name, metric) for one, metric in columns]) for read in (Evidence.values, Evidence.weights)
    )
    intervals = mean_intervals(values_NC, resampler, weights_NC)
    found = [_measured(one, name, metric, interval) for (one, metric), interval in zip(columns, intervals, strict=True)]
    for one in evidence:
        if (name, "confidence") in one.items and "top1" in metrics:
            interval = calibration_interval(one.values(name, "confidence"), one.values(name, "top1"), bins, resampler)
            found.append(_measured(one, name, "calibration", interval))
    return found


def _measured(one: Evidence, name: str, metric: str, interval: Interval) -> Measured:
    value, n = one.scores[name, metric]
    return Measured(one.name, name, metric, value, interval.low, interval.high, n)


def _pair(ours: Evidence, other: Evidence, name: str, metric: str, params: CompareParams) -> Paired:
    resampler = _resampler(ours, name, metric, params)
    return paired(ours.values(name, metric), other.values(name, metric), resampler, ours.weights(name, metric))
