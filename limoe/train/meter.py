"""How routing fares during training: counts by layer, modality and expert, added up between two rows of the log.

Axes: T rows of the stream, K choices, E experts, M modalities (text, image), C columns that are averaged over tokens, X columns
of a layer's counts: E of choices made, E of those placed, one of tokens, and C.

The counts stay on the device that the model is on, and nothing here waits for it before a row is written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from limoe.model.router import Routing
from limoe.model.tokens import MODALITIES, Layout

LOST, CONFIDENCE, SQUARE = COLUMNS = range(3)


def effective_experts(assigned_E: Tensor) -> float:
    """exp(entropy of the assignment shares): how many experts are used, between 1 and E; 0 without assignments.

    >>> round(effective_experts(torch.tensor([5.0, 5.0, 0.0])), 6)
    2.0
    """
    total = assigned_E.sum()
    return math.exp(torch.special.entr(assigned_E.double() / total).sum()) if total > 0 else 0.0


def count(routings: dict[int, Routing], layout: Layout | None) -> dict[int, Tensor]:
    """The counts of a batch or of a part of one, by layer: float64 (M, X), on the device; empty for a dense model."""
    return {layer: _count(routing, layout) for layer, routing in routings.items() if layout is not None}


def _count(routing: Routing, layout: Layout) -> Tensor:
    member_MT = torch.stack([(layout.modality_T == m) & layout.real_T for m in range(len(MODALITIES))])
    experts = routing.logits_TE.shape[1]
    bin_N = (layout.modality_T[:, None] * experts + routing.expert_TK).flatten()
    chosen_2N = torch.stack([routing.asked_TK.flatten(), routing.placed_TK.flatten()]).long()
    count_2ME = bin_N.new_zeros(2, len(MODALITIES) * experts).scatter_add_(1, bin_N.expand(2, -1), chosen_2N)
    logits_TE, probs_TE = routing.logits_TE.detach(), routing.probs_TE.detach()
    column_TC = torch.stack([~routing.placed_TK.any(1), probs_TE.amax(1), logits_TE.square().mean(1)], dim=1)
    sums_MC = torch.where(member_MT[:, :, None], column_TC.double(), 0).sum(1)  # padding may hold anything
    assigned_ME, placed_ME = count_2ME.view(2, len(MODALITIES), experts).double()
    return torch.cat([assigned_ME, placed_ME, member_MT.sum(1, keepdim=True).double(), sums_MC], dim=1)


@dataclass(frozen=True)
class LayerCounts:
    """A layer's counts, to be read. assigned_ME, placed_ME: int64, token choices. tokens_M: int64. sums_MC: float64, over the
    tokens: 1 if none of its choices found a place; the largest clean probability; the mean square logit."""

    assigned_ME: Tensor
    placed_ME: Tensor
    tokens_M: Tensor
    sums_MC: Tensor

    @classmethod
    def of(cls, counts_MX: Tensor) -> LayerCounts:
        """From what `count` gives."""
        experts = (counts_MX.shape[1] - 1 - len(COLUMNS)) // 2
        assigned_ME, placed_ME, tokens_M1, sums_MC = torch.split(counts_MX.cpu(), [experts, experts, 1, len(COLUMNS)], dim=1)
        return cls(assigned_ME.long(), placed_ME.long(), tokens_M1[:, 0].long(), sums_MC)


def routing_rows(counts: dict[int, Tensor], step: int) -> list[dict[str, Any]]:
    """One row an expert, modality and layer: what routing.parquet holds."""
    return [
        {
            "step": step,
            "layer": layer,
            "modality": name,
            "expert": expert,
            "assigned": int(read.assigned_ME[m, expert]),
            "placed": int(read.placed_ME[m, expert]),
            "tokens": int(read.tokens_M[m]),
            "confidence": float(read.sums_MC[m, CONFIDENCE] / read.tokens_M[m].clamp(min=1)),
        }
        for layer, read in _read(counts)
        for m, name in enumerate(MODALITIES)
        for expert in range(read.assigned_ME.shape[1])
    ]


def routing_summary(counts: dict[int, Tensor]) -> dict[str, float]:
    """Per layer and modality: share of choices placed, of tokens without any place, effective experts, gate confidence, RMS
    router logit. Per layer: `dead_experts`, the share of experts that no token chose. Nothing of a layer that saw no
    token, as all steps were skipped: that is no collapse."""
    summary: dict[str, float] = {}
    for layer, read in _read(counts):
        if not read.tokens_M.any():
            continue
        for m, name in enumerate(MODALITIES):
            prefix = f"block{layer}/{name}"
            mean_C = read.sums_MC[m] / read.tokens_M[m].clamp(min=1)
            assigned = read.assigned_ME[m].sum().clamp(min=1)
            summary[f"{prefix}_placed"] = float(read.placed_ME[m].sum() / assigned)
            summary[f"{prefix}_lost"] = float(mean_C[LOST])
            summary[f"{prefix}_effective_experts"] = effective_experts(read.assigned_ME[m])
            summary[f"{prefix}_confidence"] = float(mean_C[CONFIDENCE])
            summary[f"{prefix}_logits"] = float(mean_C[SQUARE].sqrt())
        summary[f"block{layer}/dead_experts"] = float((read.assigned_ME.sum(0) == 0).double().mean())
    return summary


def _read(counts: dict[int, Tensor]) -> Iterator[tuple[int, LayerCounts]]:
    return ((layer, LayerCounts.of(counts_MX)) for layer, counts_MX in counts.items())


class RoutingMeter:
    """Adds up, on `device`, what the routers did between two rows of the log: `totals`, sums of what `count` gives."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.totals: dict[int, Tensor] = {}

    def add(self, counts: dict[int, Tensor]) -> None:
        """Add the counts of a step."""
        self.totals = {layer: step + self.totals[layer] if self.totals else step for layer, step in counts.items()}

    def reset(self) -> None:
        """Start the next interval."""
        self.totals = {}

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state, for a checkpoint in the middle of an interval."""
        return {str(layer): total.tolist() for layer, total in self.totals.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.totals = {int(layer): torch.tensor(total, dtype=torch.float64, device=self.device) for layer, total in state.items()}
