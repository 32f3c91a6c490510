"""Figures of a sweep: probability of success by one parameter and by two, and what decides it.

`facts` is `Sensitivity.to_dict()` of limoe/sweep.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from limoe.report.charts import axis, base_layout
from limoe.report.document import Figure
from limoe.report.figures import titled
from limoe.report.values import middle, short_names, stretch

Facts = Mapping[str, Any]
PER_CENT = {"rangemode": "tozero", "range": [-4, 104], "ticksuffix": "%", "automargin": True}
ROW = 20  # px


def axis_of(facts: Facts, name: str) -> Any:
    """The facts of one searched parameter."""
    return next(one for one in facts["axes"] if one["name"] == name)


def success_curve(facts: Facts, curve: Facts) -> Figure:
    """P(success) over one parameter: bins with intervals, a smooth line with its band for a range, the robust value."""
    name = curve["name"]
    facts_of_axis = axis_of(facts, name)
    ranged = facts_of_axis["choices"] is None
    data = [*_band(curve["smooth"]), _bins(curve["bins"], facts_of_axis)] if ranged else [_bins(curve["bins"], facts_of_axis)]
    layout = base_layout(
        250,
        xaxis=axis(**scale(facts_of_axis), automargin=True),
        yaxis=axis(**PER_CENT),
        showlegend=False,
        margin={"l": 8, "r": 12, "t": 12, "b": 30},
    )
    robust = facts["recommendation"] and facts["recommendation"]["robust"]["values"].get(name)
    if robust is not None and ranged:
        layout["shapes"] = [_mark(float(robust))]
    return Figure(
        f"success-{name.replace('.', '-')}",
        f"`{name}`",
        f"Probability of success over {name}, with intervals.",
        data,
        layout,
    )


def scale(facts: Facts) -> dict[str, Any]:
    """The type of a parameter's axis in plotly."""
    if facts["choices"] is not None:
        return {"type": "category"}
    if not facts["log"]:
        return {"nticks": 6}
    ticks = log_ticks(float(facts["low"]), float(facts["high"]))
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:.3g}" for tick in ticks]}


def log_ticks(low: float, high: float) -> list[float]:
    """Two places a decade: few enough not to run into each other, and labelled where the range has less than one.

    >>> [f"{tick:.3g}" for tick in log_ticks(1e-3, 6.4e-3)]
    ['0.001', '0.003']
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [first * 10.0**power for power in decades for first in (1, 3) if low <= first * 10.0**power <= high]


def _mark(x: float) -> dict[str, Any]:
    where = {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1}
    return where | {"line": {"color": "@text", "width": 1.5, "dash": "dot"}}


def per_cent(values: Sequence[float | None]) -> list[float | None]:
    """Shares in per cent, rounded; None stays."""
    return [None if value is None else round(100 * value, 2) for value in values]


def _band(smooth: Sequence[Facts]) -> list[dict[str, Any]]:
    x = [one["x"] for one in smooth]
    bare = {"type": "scatter", "mode": "lines", "x": x, "hoverinfo": "skip", "line": {"width": 0}}
    line = {
        "type": "scatter",
        "mode": "lines",
        "x": x,
        "y": per_cent([one["share"]["probability"] for one in smooth]),
        "line": {"color": "@limoe", "width": 2},
        "hovertemplate": "%{x:.3g}: %{y:.0f}%<extra></extra>",
    }
    low, high = (per_cent([one["share"][end] for one in smooth]) for end in ("lower", "upper"))
    return [bare | {"y": low}, bare | {"y": high, "fill": "tonexty", "fillcolor": "@band"}, line]


def _bins(bins: Sequence[Facts], facts: Facts) -> dict[str, Any]:
    tried = [one for one in bins if one["share"]["probability"] is not None]
    shares = [one["share"] for one in tried]
    ranged = facts["choices"] is None
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [middle(one, facts["log"]) if ranged else stretch(one) for one in tried],
        "y": per_cent([one["probability"] for one in shares]),
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": per_cent([one["upper"] - one["probability"] for one in shares]),
            "arrayminus": per_cent([one["probability"] - one["lower"] for one in shares]),
            "color": "@quiet" if ranged else "@limoe",
            "thickness": 1 if ranged else 2,
            "width": 0,
        },
        "marker": {"color": "@quiet" if ranged else "@limoe", "size": 6 if ranged else 9},
        "text": [f"{stretch(one)}: {one['share']['hits']:.3g} of {one['share']['n']:.3g}" for one in tried],
        "hovertemplate": "%{text}, %{y:.0f}%<extra></extra>",
    }


def pair_map(pair: Facts) -> Figure:
    """P(success) by two parameters, a cell a pair of bins, with the successes behind it; a cell without a trial is empty."""
    rows = pair["cells"]
    told = [[f"{one['hits']:.3g}/{one['n']:.3g}" if one["n"] else "" for one in row] for row in rows]
    data = {
        "type": "heatmap",
        "x": [stretch(one) for one in pair["second_bins"]],
        "y": [stretch(one) for one in pair["first_bins"]],
        "z": [per_cent([one["probability"] if one["n"] else None for one in row]) for row in rows],
        "text": told,
        "texttemplate": "%{text}",
        "zmin": 0,
        "zmax": 100,
        "colorscale": [[0, "@heat0"], [1, "@heat1"]],
        "colorbar": {"ticksuffix": "%", "thickness": 10, "outlinewidth": 0},
        "xgap": 2,
        "ygap": 2,
        "hoverongaps": False,
        "hovertemplate": "%{y} and %{x}: %{z:.0f}% (%{text})<extra></extra>",
    }
    down, across = short_names([pair["first"], pair["second"]]).values()
    layout = base_layout(
        110 + 42 * len(rows),
        xaxis=axis(title=titled(across), type="category", showgrid=False, automargin=True),
        yaxis=axis(title=titled(down), type="category", showgrid=False, automargin=True),
        margin={"l": 8, "r": 8, "t": 12, "b": 44},
    )
    return Figure(
        f"pair-{pair['first']}-{pair['second']}".replace(".", "-"),
        f"`{pair['first']}` and `{pair['second']}`: share that succeeded, with successes of recipes",
        "A cell a pair of values; dark cells succeed more often.",
        [data],
        layout,
    )


def importances(facts: Facts) -> Figure | None:
    """Shares of the variance of quality and of failure by parameter (fANOVA); None where neither could be computed."""
    known = [("quality", facts["quality"], "@limoe"), ("failure", facts["failure"], "@series2")]
    known = [one for one in known if one[1]["fanova"]]
    if not known:
        return None
    names = ranked(facts)
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": told,
            "x": per_cent([importance["fanova"].get(name, 0.0) for name in names]),
            "y": list(short_names(names).values()),
            "marker": {"color": colour},
            "hovertemplate": "%{y}: %{x:.0f}%<extra>" + told + "</extra>",
        }
        for told, importance, colour in known
    ]
    layout = base_layout(
        90 + ROW * len(known) * len(names),
        xaxis=axis(title=titled("share of the variance, %"), rangemode="tozero"),
        yaxis=axis(autorange="reversed", automargin=True, showgrid=False),
        barmode="group",
        bargap=0.3,
        legend={"orientation": "h", "x": 0, "y": 1, "xanchor": "left", "yanchor": "bottom", "traceorder": "normal"},
    )
    return Figure("importances", "What decides quality, what decides failure", "Two bars a parameter.", data, layout)


def ranked(facts: Facts) -> list[str]:
    """The parameters, the one that matters most for quality and failure together first."""

    def weight(name: str) -> float:
        return float(sum(facts[target]["fanova"].get(name, 0.0) for target in ("quality", "failure")))

    return sorted((one["name"] for one in facts["axes"]), key=lambda name: -weight(name))
