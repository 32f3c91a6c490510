"""Tables of trials whose truth is known: points in a space, and a function that says how each ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from limoe.sweep.axes import Axis, parse_axes
from limoe.sweep.rows import Row

SPACE: dict[str, Any] = {
    "train.lr": {"low": 1e-4, "high": 1e-2, "log": True},
    "model.moe.experts": {"choices": [8, 16, 32]},
    "model.moe.capacity_factor": {"low": 1.0, "high": 2.0},
}
ONE = {"train.lr": SPACE["train.lr"]}
AXES: list[Axis] = parse_axes(SPACE)
LR = AXES[0]
Ending = Callable[[np.ndarray, np.random.Generator], dict[str, Any]]


def row(point: int, kind: str = "ok", loss: float | None = 3.0, seed: int = 0, lr: float = 1e-3, **changes: Any) -> Row:
    return Row(point=point, seed=seed, kind=kind, values={"train.lr": lr}, loss=loss, step=400, steps_planned=400, **changes)


def trials(points: int, ending: Ending, seeds: int = 1, space: dict[str, Any] = SPACE, luck: int = 0) -> list[Row]:
    """Points drawn evenly; `ending(units, generator)` gives the columns of a row: kind, loss and so on."""
    rng = np.random.default_rng(luck)
    axes, rows = parse_axes(space), []
    for point in range(points):
        units = rng.random(len(axes))
        values = {axis.name: axis.value(float(unit)) for axis, unit in zip(axes, units, strict=True)}
        placed = np.array([axis.unit(values[axis.name]) for axis in axes])
        for seed in range(seeds):
            ended = {"kind": "ok", "loss": 3.0, "step": 400, "steps_planned": 400} | ending(placed, rng)
            rows.append(Row(point=point, seed=seed, values=values, **ended))
    return rows


def fails_with(probability: Callable[[np.ndarray], float]) -> Ending:
    """Trials of loss 3 that collapse with that probability."""

    def ending(units: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
        failing = bool(rng.random() < probability(units))
        return {"kind": "collapsed", "modality": "text", "layer": 3} if failing else {}

    return ending
