"""Figures of how LIMoE routes.

Axes: L MoE layers, M modalities, E experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from limoe.report.charts import axis, base_layout
from limoe.report.document import Figure
from limoe.report.figures import titled
from limoe.report.routing import MODALITIES, RoutingLog

DASHES = {"text": "solid", "image": "dot"}
MAP_HEIGHT, MAP_MARGINS = 112, 70  # px
GAP = 0.42  # of a map's height, kept free for its title and the numbers of the experts
COLOURS = 6  # of the page's series


def load_map(log: RoutingLog) -> Figure:
    """A heat map a MoE layer: the share of each modality's choices that go to each expert, at the end of the training.

    Experts are put in the order of how much more images than text they take, so that specialists stand at the ends.
    """
    share_LME = log.last(log.share_SLME)
    layers, _, experts = share_LME.shape
    data, layout = [], base_layout(MAP_HEIGHT * layers + MAP_MARGINS, annotations=[])
    for layer, block in enumerate(log.layers_L):
        order = np.argsort(share_LME[layer, 1] - share_LME[layer, 0], kind="stable")
        names = [str(expert + 1) for expert in order]
        suffix = "" if layer == 0 else str(layer + 1)
        data.append(_heat(100 * share_LME[layer][:, order], names, suffix, 100 * float(share_LME.max())))
        bottom, top = 1 - (layer + 1) / layers, 1 - (layer + GAP) / layers
        layout[f"xaxis{suffix}"] = _bare("expert" if layer == layers - 1 else None, anchor=f"y{suffix}", type="category")
        layout[f"yaxis{suffix}"] = _bare(domain=[bottom, top], anchor=f"x{suffix}", automargin=True, autorange="reversed")
        layout["annotations"].append(_map_title(f"block {block}", top))
    return Figure(
        "experts",
        f"Where each modality goes: share of its choices by expert, % (even would be {100 / experts:.1f})",
        "Two rows a layer, text and image; a dark cell in one row above a pale one in the other is a specialist.",
        data,
        layout,
        crowded=True,
    )


def _bare(title: str | None = None, **more: Any) -> dict[str, Any]:
    return axis(title=titled(title), showgrid=False, ticks="", **more)


def _map_title(text: str, height: float) -> dict[str, Any]:
    place = {"x": 0, "xref": "paper", "xanchor": "left", "y": height, "yref": "paper", "yanchor": "bottom"}
    return {"text": text, "showarrow": False, **place}


def _heat(values_ME: Any, experts: Sequence[str], suffix: str, top: float) -> dict[str, Any]:
    return {
        "type": "heatmap",
        "z": [[round(float(value), 2) for value in row] for row in values_ME],
        "x": list(experts),
        "y": list(MODALITIES),
        "xaxis": f"x{suffix}",
        "yaxis": f"y{suffix}",
        "zmin": 0,
        "zmax": round(float(top), 2),
        "colorscale": [[0, "@heat0"], [1, "@heat1"]],
        "showscale": False,
        "texttemplate": "%{z:.0f}",
        "xgap": 2,
        "ygap": 2,
        "hovertemplate": "expert %{x}, %{y}: %{z:.1f}%<extra></extra>",
    }


def placed_lines(log: RoutingLog) -> Figure:
    """Share of each modality's choices that found room, over the training."""
    placed_SLM = log.placed_SLM
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": f"block {block}, {modality}",
            "x": log.steps_S.tolist(),
            "y": [round(100 * float(value), 2) for value in placed_SLM[:, layer, m]],
            "line": {"color": f"@series{layer % COLOURS}", "width": 2, "dash": DASHES[modality]},
            "hovertemplate": "step %{x}: %{y:.1f}%<extra>" + f"block {block}, {modality}</extra>",
        }
        for layer, block in enumerate(log.layers_L)
        for m, modality in enumerate(MODALITIES)
    ]
    layout = base_layout(
        320,
        xaxis=axis(title=titled("step")),
        yaxis=axis(title=titled("choices placed, %"), automargin=True),
    )
    return Figure("placed", "Choices that found room, in training", "A line a layer and modality; 100% is no drop.", data, layout)
