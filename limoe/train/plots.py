"""A training as two pictures, for `dvc plots` and MLflow: how the loss fell, and which experts each modality went to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from limoe.model.tokens import MODALITIES
from limoe.plots import COLOURS, new_figure, to_png


def curves(rows: Sequence[dict[str, Any]]) -> bytes:
    """PNG: contrastive loss by step and, where there is routing, the share of text placed in each sparse block."""
    figure = new_figure()
    loss = figure.add_subplot()
    losses = [(row["step"], row["contrastive"]) for row in rows if "contrastive" in row]
    loss.plot(*zip(*losses, strict=True), color=COLOURS[3], label="contrastive loss")
    loss.set(xlabel="step", ylabel="contrastive loss, nats", ylim=(0, None))
    names = sorted({name for row in rows for name in row if name.endswith("/text_placed")})
    if names:
        placed = loss.twinx()
        placed.set(ylabel="text choices placed, %", ylim=(0, 100))
        for colour, name in zip(COLOURS[:3] * len(names), names, strict=False):
            steps = [row["step"] for row in rows if name in row]
            placed.plot(steps, [100 * row[name] for row in rows if name in row], color=colour, label=name.split("/")[0])
        placed.legend(frameon=False, loc="center right", title="text placed")
    return to_png(figure)


def expert_load(routing: Sequence[dict[str, Any]]) -> bytes:
    """PNG: for each sparse block, the share of each modality's choices that went to each expert, in the last logged interval."""
    last = max(row["step"] for row in routing)
    layers = sorted({row["layer"] for row in routing})
    figure = new_figure((7.0, 0.6 + 1.3 * len(layers)))
    for place, (layer, axes) in enumerate(zip(layers, figure.subplots(len(layers), squeeze=False)[:, 0], strict=True)):
        shares_ME = np.array([_shares(routing, last, layer, modality) for modality in MODALITIES])
        image = axes.imshow(shares_ME, cmap="viridis", vmin=0, aspect="auto")
        axes.set(yticks=range(len(MODALITIES)), yticklabels=MODALITIES, title=f"block {layer}")
        axes.set_xlabel("expert" if place == len(layers) - 1 else "")
        figure.colorbar(image, ax=axes, label="% of choices")
    return to_png(figure)


def _shares(routing: Sequence[dict[str, Any]], step: int, layer: int, modality: str) -> list[float]:
    """Percent of a modality's choices, expert by expert."""
    chosen = [row for row in routing if (row["step"], row["layer"], row["modality"]) == (step, layer, modality)]
    total = sum(row["assigned"] for row in chosen)
    return [100 * row["assigned"] / max(1, total) for row in sorted(chosen, key=lambda row: int(row["expert"]))]
