"""Figures of the routing analysis, from the numbers of its routing.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from limoe.report.charts import axis, base_layout
from limoe.report.document import Figure
from limoe.report.figures import titled
from limoe.report.routing import MODALITIES, RoutingLog
from limoe.report.routing_figures import COLOURS, DASHES

Numbers = Mapping[str, Any]


def as_log(numbers: Numbers) -> RoutingLog:
    """The analysis as a log of one step: where evaluation sends tokens, and the share that training would place."""
    layers = numbers["layers"]
    load_LME = np.array([[layer["load"][name] for name in MODALITIES] for layer in layers], dtype=np.float64)
    placed_LM = np.array([[layer["placed"][name] for name in MODALITIES] for layer in layers])
    confidence_LM = np.array([[layer["confidence"][name]["mean"] for name in MODALITIES] for layer in layers])
    blocks = np.array([layer["block"] for layer in layers])
    return RoutingLog(np.zeros(1, np.int64), blocks, load_LME[None], (load_LME * placed_LM[..., None])[None], confidence_LM[None])


def confidence(numbers: Numbers) -> Figure:
    """How sure the router is of its first choice: a line a layer and modality over the largest probability."""
    bins = len(numbers["layers"][0]["confidence"]["text"]["histogram"])
    return _lines(
        numbers,
        "confidence",
        f"How sure the routers are: tokens by their largest probability, in bins of {1 / bins:.2f}",
        "A line a layer and modality; far right is sure, far left has no opinion.",
        [round((one + 0.5) / bins, 4) for one in range(bins)],
        {name: [layer["confidence"][name]["histogram"] for layer in numbers["layers"]] for name in MODALITIES},
        ("largest probability", "tokens, %"),
    )


def lost_text(numbers: Numbers) -> Figure:
    """Text tokens that training would drop, by their place in the caption."""
    values = {"text": [layer["lost_at"]["text"] for layer in numbers["layers"]]}
    places = [place + 1 for place in range(len(numbers["texts_at"]))]
    title = "Text that training would drop, by place in the caption"
    says = "A line a layer over the places; late places are of few captions."
    return _lines(numbers, "lost-text", title, says, places, values, ("place in the caption", "tokens dropped, %"))


def lost_images(numbers: Numbers) -> list[Figure]:
    """Patches that training would drop, a map of the picture for each layer; all on one scale."""
    grids = [np.reshape(layer["lost_at"]["image"], (-1, numbers["grid"])) for layer in numbers["layers"]]
    top = round(100 * max(max(float(grid.max()) for grid in grids), 0.01), 2)
    return [
        Figure(
            f"lost-image-{layer['block']}",
            f"Block {layer['block']}: patches dropped, % ({100 * layer['lost']['image']:.1f} in the mean)",
            f"The picture's grid of patches; dark cells are dropped most, up to {top:.0f}%.",
            [_map(grid, top)],
            _map_layout(),
            crowded=True,
        )
        for layer, grid in zip(numbers["layers"], grids, strict=True)
    ]


def _map(grid: Any, top: float) -> dict[str, Any]:
    few = {"texttemplate": "%{z:.0f}"} if len(grid) <= 8 else {}
    return {
        "type": "heatmap",
        "z": [[round(100 * float(value), 2) for value in row] for row in grid],
        "zmin": 0,
        "zmax": top,
        "colorscale": [[0, "@heat0"], [1, "@heat1"]],
        "showscale": False,
        "xgap": 1,
        "ygap": 1,
        "hovertemplate": "row %{y}, column %{x}: %{z:.1f}%<extra></extra>",
        **few,
    }


def _map_layout() -> dict[str, Any]:
    hidden = axis(visible=False)
    square = {"scaleanchor": "x", "autorange": "reversed"}
    return base_layout(260, xaxis=hidden, yaxis=hidden | square, margin={"l": 8, "r": 8, "t": 12, "b": 12})


def _lines(
    numbers: Numbers,
    name: str,
    title: str,
    says: str,
    x: Sequence[float],
    values: Mapping[str, Sequence[Sequence[float]]],
    axes: tuple[str, str],
) -> Figure:
    """values: by modality and layer, shares over `x`."""
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "marker": {"size": 5},
            "name": f"block {layer['block']}, {modality}",
            "x": list(x),
            "y": [round(100 * value, 2) for value in values[modality][place]],
            "line": {"color": f"@series{place % COLOURS}", "width": 2, "dash": DASHES[modality]},
            "hovertemplate": "%{x}: %{y:.1f}%<extra>" + f"block {layer['block']}, {modality}</extra>",
        }
        for place, layer in enumerate(numbers["layers"])
        for modality in values
    ]
    across, up = axes
    layout = base_layout(
        320, xaxis=axis(title=titled(across)), yaxis=axis(title=titled(up), automargin=True, rangemode="tozero"), showlegend=True
    )
    return Figure(name, title, says, data, layout)
