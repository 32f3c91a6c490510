"""Which evaluators a split gets, and which of their scores are the ones to look at first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from limoe.config import EvaluateParams
from limoe.data.schema import SELECTION_SPLITS, TEST_SPLITS, TRAIN
from limoe.evals.encoder import Encoder
from limoe.evals.retrieval import Retrieval
from limoe.evals.sets import VIEWS, EvalSet, Outcome
from limoe.evals.zeroshot import ZeroShot

RETRIEVAL = ("i2t_r1", "t2i_r1")
MOST_KEYS = 12


class Evaluator(Protocol):
    """Constructed once, run on any number of models."""

    name: str

    def run(self, encoder: Encoder) -> Outcome:
        """Score one model."""


def evaluation_splits(splits: Sequence[str]) -> list[str]:
    """Every split but the training one: test sets first, then those that settings are chosen on, then any other by its name."""
    known = [*TEST_SPLITS, *SELECTION_SPLITS]
    return sorted(set(splits) - {TRAIN}, key=lambda split: (known.index(split) if split in known else len(known), split))


def evaluators(data: EvalSet, params: EvaluateParams) -> list[Evaluator]:
    """Zero-shot classification where two labels or more are known, on the whole split and on its views; and retrieval, unless
    captions are nothing but class names, where it would repeat classification."""
    found: list[Evaluator] = []
    views = [(data.name, data.labelled)]
    for view in VIEWS.get(data.name, ()):
        views.append((f"{data.name}/{view.name}", [row for row in data.labelled if view.keep(data.keys[row])]))
    for name, rows in views:
        if len({data.labels[row] for row in rows}) >= 2:
            found.append(ZeroShot(name, data, params.templates, params.calibration_bins, params.chunk, rows))
    if data.captioned and len(data) >= 2:
        found.append(Retrieval(data.name, data, params.chunk))
    return found


def headline_metrics(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """At most MOST_KEYS scores as {set: {metric: value}}, what DVC shows: of every set its top-1, or its R@1 both ways if it
    has no classes, and then top-5 as far as there is room, all in the order of the rows."""
    classified = {row["set"] for row in rows if row["metric"] == "top1"}
    first = [row for row in rows if row["metric"] == "top1" or (row["metric"] in RETRIEVAL and row["set"] not in classified)]
    second = [row for row in rows if row["metric"] == "top5"]
    nested: dict[str, dict[str, float]] = {}
    for row in [*first, *second][:MOST_KEYS]:
        nested.setdefault(row["set"], {})[row["metric"]] = row["value"]
    return nested
