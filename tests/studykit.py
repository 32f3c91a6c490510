"""For the tests of a sweep's report: trials with a plain truth. High learning rates fail, of the rest the middle is best."""

from __future__ import annotations

import math
import random

from limoe.sweep.rows import Row

SPACE = {
    "train.lr": {"low": 1e-3, "high": 1e-1, "log": True},
    "model.moe.capacity_factor": {"low": 1.0, "high": 2.0},
    "model.moe.k": {"choices": [1, 2]},
}


def rows(count: int) -> list[Row]:
    """So many points with one seed each. Failures are told early by how little text is placed."""
    draw = random.Random(0)
    return [_row(point, draw) for point in range(count)]


def _row(point: int, draw: random.Random) -> Row:
    unit, factor = draw.random(), draw.uniform(1, 2)
    values = {"train.lr": 10 ** (-3 + 2 * unit), "model.moe.capacity_factor": factor, "model.moe.k": 1 + point % 2}
    failed = unit + draw.gauss(0, 0.1) > 0.6
    early = {f"{percent}/text_placed_min": draw.gauss(0.2 if failed else 0.8, 0.1) for percent in (10, 20, 30)}
    early |= {f"{percent}/loss": draw.gauss(0.9, 0.05) for percent in (10, 20, 30)}
    loss = 3 + 2 * (unit - 0.3) ** 2 + draw.gauss(0, 0.02)
    kind = "ok" if not failed else "diverged" if unit > 0.85 else "collapsed"
    return Row(
        point=point,
        seed=0,
        kind=kind,
        values=values,
        loss=None if kind == "diverged" else loss + 0.5 * failed,
        modality="text" if kind == "collapsed" else None,
        layer=1 if kind == "collapsed" else None,
        step=60 if kind == "diverged" else 100,
        steps_planned=100,
        evidence={"ok": "finished", "collapsed": "text-collapse@block1", "diverged": "diverged at step 60"}[kind],
        seconds=math.pi,
        early=early,
        fingerprint=f"{point:016x}",
    )
