"""Quality against cost: every contestant as a point, and the line of those that none beats at no higher cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from limoe.report.budget import frontier
from limoe.report.charts import axis, base_layout
from limoe.report.document import Figure, Grid
from limoe.report.evidence import Evidence
from limoe.report.figures import titled
from limoe.report.names import METRICS, Look, looks, title
from limoe.report.scores import Measured

FORWARD, TRAINING = "FLOPs of a pair, forward", "FLOPs of the training"
LEGEND = {"orientation": "h", "x": 0, "y": 1, "xanchor": "left", "yanchor": "bottom", "font": {"size": 11}, "entrywidth": 90}
LOGARITHMIC = {"type": "log", "nticks": 5, "tickformat": ".3~s", "tickangle": 0}
Point = tuple[float, Measured]


def pareto(measured: Sequence[Measured], evidence: Sequence[Evidence], tests: Sequence[tuple[str, str]]) -> list[Grid]:
    """For each test (set, metric) a figure a kind of cost; a contestant whose cost is unknown is missing there."""
    costs = {
        FORWARD: {one.name: one.budget.forward for one in evidence},
        TRAINING: {one.name: one.budget.training for one in evidence if one.budget.training is not None},
    }
    drawn, grids = looks([one.name for one in evidence]), []
    for number, (name, metric) in enumerate(tests):
        mine = [one for one in measured if (one.set, one.metric) == (name, metric)]
        figures = []
        for kind, cost in costs.items():
            points = [(cost[one.model], one) for one in mine if one.model in cost]
            id = f"pareto-{number}-{'forward' if kind == FORWARD else 'training'}"
            figures.append(_figure(id, f"{name}, {METRICS[metric]}, against {kind}", kind, points, drawn))
        grids.append(Grid(figures))
    return grids


def _figure(id: str, caption: str, kind: str, points: Sequence[Point], drawn: Mapping[str, Look]) -> Figure:
    data = [_line(points), *(_mark(cost, one, drawn[one.model]) for cost, one in points)]
    layout = base_layout(
        340,
        legend=LEGEND,
        xaxis=axis(title=titled(kind), range=_decades([cost for cost, _ in points]), **LOGARITHMIC),
        yaxis=axis(title=titled("score, %"), rangemode="tozero", automargin=True),
    )
    return Figure(id, caption, "A point a model: higher is better, further left is cheaper.", data, layout)


def _decades(costs: Sequence[float]) -> list[float]:
    """The axis's ends as logarithms: room beside the points, and a factor of 2 at least, so that 5% do not look like a gulf."""
    low, high = math.log10(min(costs)), math.log10(max(costs))
    room = max(0.15, 0.08 * (high - low))
    return [round(low - room, 3), round(high + room, 3)]


def _mark(cost: float, one: Measured, look: Look) -> dict[str, Any]:
    interval = {
        "type": "data",
        "symmetric": False,
        "array": [round(100 * (one.high - one.value), 3)],
        "arrayminus": [round(100 * (one.value - one.low), 3)],
        "thickness": 2,
        "width": 0,
        "color": f"@{look.colour}",
    }
    return {
        "type": "scatter",
        "mode": "markers",
        "name": title(one.model),
        "x": [cost],
        "y": [round(100 * one.value, 3)],
        "error_y": interval,
        "marker": {"color": f"@{look.colour}", "symbol": look.symbol, "size": 10},
        "hovertemplate": "%{x:.3s}FLOP: <b>%{y:.1f}%</b><extra>" + title(one.model) + "</extra>",
    }


def _line(points: Sequence[Point]) -> dict[str, Any]:
    best = [points[place] for place in frontier([cost for cost, _ in points], [one.value for _, one in points])]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "frontier",
        "x": [cost for cost, _ in best],
        "y": [round(100 * one.value, 3) for _, one in best],
        "line": {"color": "@quiet", "width": 1, "dash": "dot", "shape": "hv"},
        "hoverinfo": "skip",
    }
