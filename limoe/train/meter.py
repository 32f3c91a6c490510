"""How routing fares during training: counts by layer, modality and expert, added up between two rows of the log.

Axes: T rows of the stream, K choices, E experts, M modalities (text, image), C columns that are averaged over tokens.

The sums stay on the device that the model is on, and nothing here waits for it before a row is written.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from limoe.model.router import Routing
from limoe.model.tokens import MODALITIES, Layout

LOST, CONFIDENCE, SQUARE = range(3)  # columns of sums_MC


def effective_experts(assigned_E: Tensor) -> float:
    """exp(entropy of the assignment shares): how many experts are used, between 1 and E; 0 without assignments.

    >>> round(effective_experts(torch.tensor([5.0, 5.0, 0.0])), 6)
    2.0
    """
    total = assigned_E.sum()
    return math.exp(torch.special.entr(assigned_E.double() / total).sum()) if total > 0 else 0.0


@dataclass(frozen=True)
class LayerCounts:
    """Sums over some steps for one layer, on one device. assigned_ME, placed_ME: int64, token choices. tokens_M: int64. sums_MC:
    float64, over the tokens: 1 if none of its choices found a place; the largest clean probability; the mean square logit."""

    assigned_ME: Tensor
    placed_ME: Tensor
    tokens_M: Tensor
    sums_MC: Tensor

    @classmethod
    def zeros(cls, experts: int, device: torch.device) -> LayerCounts:
        """No counts yet."""
        counts = torch.zeros(len(MODALITIES), experts, dtype=torch.int64, device=device)
        sums = torch.zeros(len(MODALITIES), 3, dtype=torch.float64, device=device)
        return cls(counts, counts.clone(), counts[:, 0].clone(), sums)

    def add(self, routing: Routing, layout: Layout) -> None:
        """Count one step's routing, in place."""
        member_MT = torch.stack([(layout.modality_T == m) & layout.real_T for m in range(len(MODALITIES))])
        bin_N = (layout.modality_T[:, None] * self.assigned_ME.shape[1] + routing.expert_TK).flatten()
        self.assigned_ME.view(-1).scatter_add_(0, bin_N, routing.asked_TK.flatten().long())
        self.placed_ME.view(-1).scatter_add_(0, bin_N, routing.placed_TK.flatten().long())
        self.tokens_M.add_(member_MT.sum(1))
        logits_TE, probs_TE = routing.logits_TE.detach(), routing.probs_TE.detach()
        column_TC = torch.stack([~routing.placed_TK.any(1), probs_TE.amax(1), logits_TE.square().mean(1)], dim=1)
        self.sums_MC.add_(torch.where(member_MT[:, :, None], column_TC.double(), 0).sum(1))  # padding may hold anything

    def on_cpu(self) -> LayerCounts:
        """The counts so far, to be read."""
        return replace(self, **{name: tensor.cpu() for name, tensor in vars(self).items()})


class RoutingMeter:
    """Adds up what the routers did between two rows of the log. device: where the model is."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._layers: dict[int, LayerCounts] = {}

    def add(self, routings: dict[int, Routing], layout: Layout | None) -> None:
        """Count one step; nothing to do for a dense model."""
        for layer, routing in routings.items():
            assert layout is not None
            if layer not in self._layers:
                self._layers[layer] = LayerCounts.zeros(routing.logits_TE.shape[1], self._device)
            self._layers[layer].add(routing, layout)

    def rows(self, step: int) -> list[dict[str, Any]]:
        """One row an expert, modality and layer: what routing.parquet holds."""
        return [
            {
                "step": step,
                "layer": layer,
                "modality": name,
                "expert": expert,
                "assigned": int(counts.assigned_ME[m, expert]),
                "placed": int(counts.placed_ME[m, expert]),
                "tokens": int(counts.tokens_M[m]),
                "confidence": float(counts.sums_MC[m, CONFIDENCE] / counts.tokens_M[m].clamp(min=1)),
            }
            for layer, counts in self._read().items()
            for m, name in enumerate(MODALITIES)
            for expert in range(counts.assigned_ME.shape[1])
        ]

    def summary(self) -> dict[str, float]:
        """Per layer and modality: share of choices placed, of tokens without any place, effective experts, gate confidence, RMS
        router logit. Per layer: `dead_experts`, the share of experts that no token chose."""
        summary: dict[str, float] = {}
        for layer, counts in self._read().items():
            for m, name in enumerate(MODALITIES):
                prefix = f"block{layer}/{name}"
                mean_C = counts.sums_MC[m] / counts.tokens_M[m].clamp(min=1)
                assigned = counts.assigned_ME[m].sum().clamp(min=1)
                summary[f"{prefix}_placed"] = float(counts.placed_ME[m].sum() / assigned)
                summary[f"{prefix}_lost"] = float(mean_C[LOST])
                summary[f"{prefix}_effective_experts"] = effective_experts(counts.assigned_ME[m])
                summary[f"{prefix}_confidence"] = float(mean_C[CONFIDENCE])
                summary[f"{prefix}_logits"] = float(mean_C[SQUARE].sqrt())
            summary[f"block{layer}/dead_experts"] = float((counts.assigned_ME.sum(0) == 0).double().mean())
        return summary

    def reset(self) -> None:
        """Start the next interval."""
        self._layers.clear()

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state, for a checkpoint in the middle of an interval."""
        return {str(layer): {name: x.tolist() for name, x in vars(sums).items()} for layer, sums in self._layers.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._layers = {
            int(layer): LayerCounts(
                torch.tensor(c["assigned_ME"], device=self._device),
                torch.tensor(c["placed_ME"], device=self._device),
                torch.tensor(c["tokens_M"], device=self._device),
                torch.tensor(c["sums_MC"], dtype=torch.float64, device=self._device),
            )
            for layer, c in state.items()
        }

    def _read(self) -> dict[int, LayerCounts]:
        return {layer: counts.on_cpu() for layer, counts in self._layers.items()}
