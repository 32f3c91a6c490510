"""What the routing analysis leaves: every number, the pictures of patches, one page, and PNG stills of its figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from limoe.evals.routing.stored import Analysis
from limoe.files import write_bytes, write_text
from limoe.plots import COLOURS, new_figure, to_png
from limoe.report.page import to_html
from limoe.report.routing import MODALITIES
from limoe.report.routing_analysis import document

PAGE = "routing.html"
STYLES = {"text": "-", "image": ":"}


def write(folder: Path, analysis: Analysis) -> None:
    """Write all of it into `folder`; equal analyses give equal bytes."""
    numbers = analysis.numbers
    analysis.save(folder)
    write_text(folder / PAGE, to_html(document(analysis)))
    write_bytes(folder / "load.png", load_still(numbers))
    write_bytes(folder / "confidence.png", confidence_still(numbers))
    write_bytes(folder / "dropped.png", dropped_still(numbers))
    for layer in numbers["layers"]:
        if still := patches_still(layer, analysis.strips):
            write_bytes(folder / f"patches-{layer['block']}.png", still)


def load_still(numbers: Mapping[str, Any]) -> bytes:
    """Share of each modality's choices by expert, a map a layer."""
    layers = numbers["layers"]
    figure = new_figure((7.0, 0.6 + 1.1 * len(layers)))
    for layer, axes in zip(layers, figure.subplots(len(layers), squeeze=False)[:, 0], strict=True):
        counts_ME = np.array([layer["load"][name] for name in MODALITIES], dtype=float)
        shares_ME = counts_ME / np.maximum(counts_ME.sum(1, keepdims=True), 1)
        image = axes.imshow(100 * shares_ME, cmap="Greens", vmin=0, aspect="auto")
        experts = range(counts_ME.shape[1])
        axes.set(yticks=range(len(MODALITIES)), yticklabels=MODALITIES, title=f"block {layer['block']}")
        axes.set(xticks=experts, xticklabels=[expert + 1 for expert in experts])
        figure.colorbar(image, ax=axes, label="% of choices")
    return to_png(figure)


def confidence_still(numbers: Mapping[str, Any]) -> bytes:
    """Tokens by the largest probability, a line a layer and modality."""
    figure = new_figure()
    axes = figure.add_subplot()
    for place, layer in enumerate(numbers["layers"]):
        for name in MODALITIES:
            shares = layer["confidence"][name]["histogram"]
            middles = [(one + 0.5) / len(shares) for one in range(len(shares))]
            label = f"block {layer['block']}, {name}"
            percents = [100 * share for share in shares]
            axes.plot(middles, percents, color=COLOURS[place % len(COLOURS)], linestyle=STYLES[name], label=label)
    axes.set(xlabel="largest probability", ylabel="tokens, %", xlim=(0, 1), ylim=(0, None))
    axes.legend(frameon=False, fontsize="small")
    return to_png(figure)


def dropped_still(numbers: Mapping[str, Any]) -> bytes:
    """What training would drop: patches by their place in the picture, text by its place in the caption, a row a layer."""
    layers = numbers["layers"]
    figure = new_figure((7.0, 2.4 * len(layers)))
    for layer, (left, right) in zip(layers, figure.subplots(len(layers), 2, squeeze=False), strict=True):
        grid = 100 * np.reshape(layer["lost_at"]["image"], (-1, numbers["grid"]))
        figure.colorbar(left.imshow(grid, cmap="Greens", vmin=0), ax=left, label="patches dropped, %")
        left.set(xticks=[], yticks=[], title=f"block {layer['block']}")
        places = range(1, len(numbers["texts_at"]) + 1)
        right.bar(places, [100 * share for share in layer["lost_at"]["text"]], color=COLOURS[2])
        right.set(xlabel="place in the caption", ylabel="tokens dropped, %", ylim=(0, None))
    return to_png(figure)


def patches_still(layer: Mapping[str, Any], strips: Mapping[tuple[int, int], bytes]) -> bytes | None:
    """A layer's strips of patches, a row an expert that takes any."""
    mine: Sequence[tuple[int, Image.Image]] = [
        (expert, Image.open(BytesIO(strip))) for (block, expert), strip in strips.items() if block == layer["block"]
    ]
    if not mine:
        return None
    figure = new_figure((7.0, 0.85 * len(mine)))
    widest = max(picture.width for _, picture in mine)
    for (expert, picture), axes in zip(mine, figure.subplots(len(mine), squeeze=False)[:, 0], strict=True):
        axes.imshow(np.asarray(picture))
        label = f"{expert + 1}, {layer['kinds'][expert]}"
        axes.set(xlim=(0, widest), xticks=[], yticks=[picture.height / 2], yticklabels=[label])
        axes.tick_params(length=0)
        axes.spines[["left", "bottom"]].set_visible(False)
    return to_png(figure)
