"""Health early in a training: what its metrics say at 10, 20 and 30% of the budget."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

EARLY = (10, 20, 30)  # per cent of the budget
WINDOW = 0.05  # share of the budget that a figure is averaged over, up to its moment
WORST = {  # early health: its name, the ending of the blocks' figures that it comes from, and which of them is the worst
    "text_placed_min": ("/text_placed", min),
    "image_placed_min": ("/image_placed", min),
    "text_effective_min": ("/text_effective_experts", min),
    "image_effective_min": ("/image_effective_experts", min),
    "text_confidence_min": ("/text_confidence", min),
    "image_confidence_min": ("/image_confidence", min),
    "text_logits_max": ("/text_logits", max),
    "image_logits_max": ("/image_logits", max),
    "dead_experts_max": ("/dead_experts", max),
}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl in their order; none for a missing file, and a last line that was cut off is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def early_health(metrics: Iterable[Mapping[str, Any]], guess: float, steps: int, reached: int) -> dict[str, float]:
    """Health at 10, 20 and 30% of `steps`, as {"10/loss": ...}; nothing for a moment that step `reached` lies before.

    guess: what guessing costs, in nats. `loss` is the contrastive loss over that; `gradient_norm`, `logit_scale` and the worst
    block's routing follow. Each is the mean over the rows of the last 5% of the budget before the moment, or the last row
    before it.
    """
    rows, found = list(metrics), {}
    for percent in EARLY:
        moment = steps * percent / 100
        before = [row for row in rows if row["step"] <= moment] if reached >= moment else []
        window = [row for row in before if row["step"] > moment - WINDOW * steps] or before[-1:]
        figures = [_figures(row, guess) for row in window]
        for name in sorted({name for figure in figures for name in figure}):
            values = [figure[name] for figure in figures if name in figure]
            found[f"{percent}/{name}"] = math.fsum(values) / len(values)
    return found


def _figures(row: Mapping[str, Any], guess: float) -> dict[str, float]:
    """One row's figures of health; what is missing or not finite is left out."""
    found = {name: row.get(name) for name in ("gradient_norm", "logit_scale")}
    contrastive = row.get("contrastive")
    found["loss"] = None if contrastive is None else contrastive / guess
    for name, (ending, worst) in WORST.items():
        found[name] = worst([value for key, value in row.items() if key.endswith(ending)], default=None)
    return {name: value for name, value in found.items() if value is not None and math.isfinite(value)}
