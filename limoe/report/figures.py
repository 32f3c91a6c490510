"""The report's figures, as plotly's plain data. Colours are names ("@limoe") to which the page's style gives a value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from limoe.report.charts import axis, base_layout
from limoe.report.document import Figure
from limoe.report.evidence import Evidence
from limoe.report.names import METRICS, looks, title
from limoe.report.scores import Measured

ROW_HEIGHT, MARGINS = 46, 96  # px


def titled(text: str | None) -> dict[str, Any]:
    """An axis's title, smaller than plotly's own."""
    return {"text": text, "font": {"size": 12}, "standoff": 8}


def forest(measured: Sequence[Measured], evidence: Sequence[Evidence], caption: str) -> Figure:
    """Scores with their intervals, a row a test, a mark a contestant; a tick where chance is known."""
    tests = list(dict.fromkeys((one.set, one.metric) for one in measured))
    names = [one.name for one in evidence]
    drawn = looks(names)
    data = []
    for place, name in enumerate(names):
        mine = [one for one in measured if one.model == name]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": title(name),
                "x": [round(100 * one.value, 3) for one in mine],
                "y": [tests.index((one.set, one.metric)) + 0.24 * (place - (len(names) - 1) / 2) for one in mine],
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [round(100 * (one.high - one.value), 3) for one in mine],
                    "arrayminus": [round(100 * (one.value - one.low), 3) for one in mine],
                    "thickness": 2,
                    "width": 0,
                    "color": f"@{drawn[name].colour}",
                },
                "marker": {"color": f"@{drawn[name].colour}", "symbol": drawn[name].symbol, "size": 9},
                "text": [f"{one.set}, {METRICS[one.metric]}" for one in mine],
                "hovertemplate": "%{text}<br><b>%{x:.1f}%</b><extra>" + title(name) + "</extra>",
            }
        )
    data.append(_chance_ticks(tests, evidence[0]))
    labels = [f"{name}<br><span style='font-size:0.85em'>{METRICS[metric]}</span>" for name, metric in tests]
    layout = base_layout(
        ROW_HEIGHT * len(tests) + MARGINS,
        xaxis=axis(title=titled("score, %"), rangemode="tozero"),
        yaxis=axis(
            tickvals=list(range(len(tests))),
            ticktext=labels,
            range=[len(tests) - 0.5, -0.5],
            automargin=True,
            showgrid=False,
            zeroline=False,
        ),
    )
    return Figure(
        "scores",
        f"{caption}, with 95% intervals",
        "A row a set and metric, a mark a model; all figures are in the table below.",
        data,
        layout,
    )


def _chance_ticks(tests: Sequence[tuple[str, str]], evidence: Evidence) -> dict[str, Any]:
    known = [
        (row, evidence.scores[name, "chance"][0])
        for row, (name, metric) in enumerate(tests)
        if metric == "top1" and (name, "chance") in evidence.scores
    ]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "chance",
        "x": [round(100 * chance, 3) for _, chance in known],
        "y": [row for row, _ in known],
        "marker": {"symbol": "line-ns", "size": 26, "line": {"width": 1.5, "color": "@quiet"}, "color": "@quiet"},
        "hovertemplate": "%{x:.2f}%<extra>chance</extra>",
    }


def curves(evidence: Sequence[Evidence]) -> Figure:
    """The contrastive loss of each contestant that was trained here."""
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": title(one.name),
            "x": [row["step"] for row in one.curve if "contrastive" in row],
            "y": [round(row["contrastive"], 4) for row in one.curve if "contrastive" in row],
            "line": {"color": f"@{one.name}", "width": 2, "dash": {"limoe": "solid", "dense": "dash", "clip": "dot"}[one.name]},
            "hovertemplate": "step %{x}: %{y:.3f}<extra>" + title(one.name) + "</extra>",
        }
        for one in evidence
        if one.curve
    ]
    layout = base_layout(
        340,
        xaxis=axis(title=titled("step")),
        yaxis=axis(title=titled("contrastive loss, nats"), rangemode="tozero", automargin=True),
    )
    return Figure("curves", "Contrastive loss in training", "A falling line a model, over training steps.", data, layout)
