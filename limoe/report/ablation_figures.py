"""An ablation as a figure: what each change of the full recipe costs. `lines` are those of `AblationResult.to_dict()`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from limoe.plots import COLOURS, new_figure, to_png
from limoe.report.charts import axis, base_layout
from limoe.report.document import Figure
from limoe.report.figures import titled

Facts = Mapping[str, Any]
ROW = 26  # px


def forest(lines: Sequence[Facts]) -> Figure:
    """Differences to the full recipe with their intervals, a row a variant, a colour a group."""
    groups = list(dict.fromkeys(line["group"] for line in lines))
    data = [_marks([line for line in lines if line["group"] == group], f"@series{n % 6}") for n, group in enumerate(groups)]
    zero = {"type": "line", "x0": 0, "x1": 0, "yref": "paper", "y0": 0, "y1": 1, "line": {"color": "@quiet", "width": 1}}
    layout = base_layout(
        80 + ROW * len(lines),
        xaxis=axis(title=titled("loss minus full, nats")),
        yaxis=axis(autorange="reversed", automargin=True, showgrid=False, type="category"),
        shapes=[zero],
        showlegend=False,
        margin={"l": 8, "r": 16, "t": 8, "b": 44},
    )
    says = "A row a variant; right of 0 it is worse than the full recipe."
    return Figure("differences", "What each change costs, with 95% intervals", says, data, layout)


def _marks(lines: Sequence[Facts], colour: str) -> dict[str, Any]:
    shown = [line["difference"] for line in lines]
    above = [0 if one["upper"] is None else round(one["upper"] - one["mean"], 4) for one in shown]
    below = [0 if one["lower"] is None else round(one["mean"] - one["lower"], 4) for one in shown]
    bars = {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 2, "width": 0, "color": colour}
    return {
        "type": "scatter",
        "mode": "markers",
        "name": lines[0]["group"],
        "x": [round(one["mean"], 4) for one in shown],
        "y": [line["key"] for line in lines],
        "error_x": bars,
        "marker": {"color": colour, "size": 8},
        "hovertemplate": "%{y}: %{x:+.3f}<extra></extra>",
    }


def still(lines: Sequence[Facts]) -> bytes:
    """PNG: the same."""
    groups = list(dict.fromkeys(line["group"] for line in lines))
    figure = new_figure((7.0, 1.2 + 0.24 * len(lines)))
    axes = figure.add_subplot()
    for row, line in enumerate(lines):
        difference, colour = line["difference"], COLOURS[groups.index(line["group"]) % len(COLOURS)]
        if difference["lower"] is not None:
            axes.plot([difference["lower"], difference["upper"]], [row, row], color=colour, linewidth=1.8)
        axes.plot(difference["mean"], row, "o", color=colour, markersize=5)
    axes.axvline(0, color="#66706a", linewidth=1)
    axes.set(yticks=range(len(lines)), yticklabels=[line["key"] for line in lines], ylim=(-0.6, len(lines) - 0.4))
    axes.set_xlabel("loss minus the full recipe's, nats (right is worse)")
    axes.invert_yaxis()
    return to_png(figure)
