"""How the trained LIMoE routes, from what its training logged.

Axes: S rows of the log (each sums the steps since the one before), L MoE layers, M modalities, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

LAST_STEPS = 50  # window of the reported figures, as in the training's own
MODALITIES = ("text", "image")


@dataclass(frozen=True)
class RoutingLog:
    """steps_S, layers_L: int64. assigned_SLME, placed_SLME: token choices. confidence_SLM: 0..1. M is (text, image)."""

    steps_S: NDArray[np.int64]
    layers_L: NDArray[np.int64]
    assigned_SLME: NDArray[np.float64]
    placed_SLME: NDArray[np.float64]
    confidence_SLM: NDArray[np.float64]

    @classmethod
    def of(cls, table: pa.Table) -> RoutingLog:
        """From the rows of routing.parquet."""
        steps_S, s = np.unique(table["step"].to_numpy(), return_inverse=True)
        layers_L, layer = np.unique(table["layer"].to_numpy(), return_inverse=True)
        m = np.array([MODALITIES.index(name) for name in table["modality"].to_pylist()], dtype=np.int64)
        expert = table["expert"].to_numpy()
        shape = (len(steps_S), len(layers_L), len(MODALITIES), int(expert.max(initial=-1)) + 1)
        assigned, placed, confidence = np.zeros(shape), np.zeros(shape), np.zeros(shape[:3])
        assigned[s, layer, m, expert] = table["assigned"].to_numpy()
        placed[s, layer, m, expert] = table["placed"].to_numpy()
        confidence[s, layer, m] = table["confidence"].to_numpy()
        return cls(steps_S, layers_L, assigned, placed, confidence)

    @property
    def empty(self) -> bool:
        """Whether there is nothing: a model without experts."""
        return not len(self.steps_S)

    @property
    def share_SLME(self) -> NDArray[np.float64]:
        """Share of a modality's choices that go to each expert; sums to 1 over E where there are any."""
        totals = np.maximum(self.assigned_SLME.sum(-1, keepdims=True), 1)
        return np.asarray(self.assigned_SLME / totals)

    @property
    def placed_SLM(self) -> NDArray[np.float64]:
        """Share of a modality's choices that found room."""
        return np.asarray(self.placed_SLME.sum(-1) / np.maximum(self.assigned_SLME.sum(-1), 1))

    @property
    def effective_SLM(self) -> NDArray[np.float64]:
        """Effective experts: exp(entropy of the shares)."""
        share = self.share_SLME
        return np.asarray(np.exp(-(share * np.log(np.where(share > 0, share, 1))).sum(-1)))

    def last(self, values_S: NDArray[np.float64]) -> NDArray[np.float64]:
        """The mean of `values_S` (any axes after S) over the rows of the last 50 steps."""
        return np.asarray(values_S[self.steps_S > self.steps_S[-1] - LAST_STEPS].mean(0))
