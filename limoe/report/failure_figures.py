"""Figures of a sweep's failures: where and of which kind, how far the recommendation may move, what warns early.

`facts` is `Sensitivity.to_dict()` of limoe/sweep; `trials` are rows {point, seed, kind, values, success}, success None where a
trial has no label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from limoe.report.charts import axis, base_layout
from limoe.report.document import Figure
from limoe.report.figures import titled
from limoe.report.sensitivity_figures import axis_of, per_cent, scale
from limoe.report.values import brief, drawn, position, short_names

Facts = Mapping[str, Any]
SUCCESS, CENSORED = "succeeded", "no label"
KINDS = {  # of failures: colour and symbol, so that colour is not all that tells them apart
    "collapsed": ("series1", "x"),
    "diverged": ("bad", "diamond"),
    "unhealthy": ("series2", "triangle-up"),
    "behind": ("series3", "square-open"),
    "oom": ("series4", "star"),
}


def failure_axes(facts: Facts) -> tuple[str, str] | None:
    """The two parameters of the failure map: of the ranges (of all, if there are not two) those that decide failure most."""
    weights = facts["failure"]["fanova"]
    ranges = [one["name"] for one in facts["axes"] if one["choices"] is None and not one["conditional"]]
    names = ranges if len(ranges) > 1 else [one["name"] for one in facts["axes"]]
    first = sorted(names, key=lambda name: -weights.get(name, 0.0))[:2]
    return (first[0], first[1]) if len(first) == 2 else None


def by_kind(facts: Facts, trials: Sequence[Facts]) -> dict[str, list[Facts]]:
    """Trials by what became of them: succeeded, then the kinds of failure, then those without a label; empty ones left out."""
    failures = {(one["point"], one["seed"]): one["kind"] for one in facts["failures"]}
    found: dict[str, list[Facts]] = {kind: [] for kind in (SUCCESS, *KINDS, CENSORED)}
    for trial in trials:
        kind = failures.get((trial["point"], trial["seed"]))
        kind = kind or (SUCCESS if trial["success"] else CENSORED)
        found.setdefault(kind, []).append(trial)
    return {kind: mine for kind, mine in found.items() if mine}


def failure_map(facts: Facts, trials: Sequence[Facts]) -> Figure | None:
    """Every trial by the two parameters that decide failure most, its symbol what became of it; None with one parameter."""
    if (names := failure_axes(facts)) is None:
        return None
    first, second = names
    x_axis, y_axis = axis_of(facts, first), axis_of(facts, second)
    data = []
    for kind, mine in by_kind(facts, trials).items():
        colour, symbol = KINDS.get(kind, ("limoe", "circle-open") if kind == SUCCESS else ("chance", "line-ew-open"))
        shown = [one for one in mine if first in one["values"] and second in one["values"]]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": kind,
                "x": [drawn(x_axis, one["values"][first]) for one in shown],
                "y": [drawn(y_axis, one["values"][second]) for one in shown],
                "marker": {"color": f"@{colour}", "symbol": symbol, "size": 8, "line": {"width": 1.5, "color": f"@{colour}"}},
                "text": [f"point {one['point']}, seed {one['seed']}" for one in shown],
                "hovertemplate": "%{text}<br>%{x:.3g}, %{y:.3g}<extra>" + kind + "</extra>",
            }
        )
    layout = base_layout(
        440,
        xaxis=axis(title=titled(first), **scale(x_axis)),
        yaxis=axis(title=titled(second), automargin=True, **scale(y_axis)),
    )
    return Figure("failures", f"Every trial by `{first}` and `{second}`", "A mark a trial, its shape the outcome.", data, layout)


def reach_bars(facts: Facts) -> Figure | None:
    """A row a parameter: the part of the tried range in which the recommendation holds, and where it stands."""
    reaches = [one for one in facts["recommendation"]["reach"] if one["low"] is not None]
    if not reaches:
        return None
    short = short_names([one["name"] for one in facts["axes"]])
    names = [short[one["name"]] for one in reaches]
    axes = [axis_of(facts, one["name"]) for one in reaches]
    data: list[dict[str, Any]] = []
    for one, name, facts_of_axis in zip(reaches, names, axes, strict=True):
        ends = [one["low"], one["high"]]
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": [round(position(facts_of_axis, value), 4) for value in ends],
                "y": [name, name],
                "line": {"color": "@limoe", "width": 7},
                "hoverinfo": "skip",
            }
        )
    data.append(
        {
            "type": "scatter",
            "mode": "markers",
            "x": [round(position(facts_of_axis, one["value"]), 4) for one, facts_of_axis in zip(reaches, axes, strict=True)],
            "y": names,
            "marker": {"color": "@text", "size": 11, "symbol": "diamond"},
            "text": [brief(one["value"]) for one in reaches],
            "hovertemplate": "%{y} = %{text}<extra>recommended</extra>",
        }
    )
    layout = base_layout(
        76 + 46 * len(reaches),
        xaxis=axis(range=[-0.24, 1.2], tickvals=[0, 1], ticktext=["lowest tried", "highest tried"]),
        yaxis=axis(autorange="reversed", automargin=True, showgrid=False, type="category"),
        showlegend=False,
        margin={"l": 8, "r": 8, "t": 12, "b": 34},
        annotations=[_end(trace, one, end) for trace, one in zip(data, reaches, strict=False) for end in (0, 1)],
    )
    return Figure("reach", "Where the recommendation keeps 90%", "A bar a parameter, the diamond is the recipe.", data, layout)


def _end(trace: Facts, one: Facts, end: int) -> dict[str, Any]:
    """The value at the low (0) or high (1) end of a parameter's bar, beside it."""
    place = {"x": trace["x"][end], "y": trace["y"][end], "xanchor": ("right", "left")[end], "xshift": (-6, 6)[end]}
    return place | {"text": brief(float(one[("low", "high")[end]])), "showarrow": False, "font": {"size": 11}}


def combined_roc(facts: Facts) -> list[tuple[float, list[tuple[float, float]]]]:
    """(share of the budget, curve of all figures together), where there is one."""
    found = (
        (early["fraction"], one["roc"]) for early in facts["early"] for one in early["predictors"] if one["name"] == "combined"
    )
    return [(fraction, curve) for fraction, curve in found if curve]


def roc(facts: Facts) -> Figure | None:
    """Share of failures caught against false alarms, from all figures together, a line a share of the budget."""
    data: list[dict[str, Any]] = []
    for place, (fraction, curve) in enumerate(combined_roc(facts)):
        told = f"at {fraction:.0%} of the budget"
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": told,
                "x": per_cent([point[0] for point in curve]),
                "y": per_cent([point[1] for point in curve]),
                "line": {"color": f"@series{place}", "width": 2, "dash": ("dot", "dash", "solid")[place % 3], "shape": "hv"},
                "hovertemplate": "%{y:.0f}% caught, %{x:.0f}% false alarms<extra>" + told + "</extra>",
            }
        )
    if not data:
        return None
    chance = {"type": "scatter", "mode": "lines", "name": "chance", "x": [0, 100], "y": [0, 100], "hoverinfo": "skip"}
    data.append(chance | {"line": {"color": "@chance", "width": 1}})
    layout = base_layout(
        380,
        xaxis=axis(title=titled("false alarms, %"), range=[-2, 102]),
        yaxis=axis(title=titled("failures caught, %"), range=[-2, 102], automargin=True),
    )
    return Figure(
        "roc", "Early warning on recipes that it was not fitted on", "A rising line a share of the budget.", data, layout
    )
