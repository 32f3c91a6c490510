"""How routing fares during training, and the guard against losses that are not finite.

Axes: T rows of the stream, K choices, E experts, M modalities (text, image).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from limoe.errors import UserError
from limoe.model.router import Routing
from limoe.model.tokens import MODALITIES, Layout


def effective_experts(assigned_E: Tensor) -> float:
    """exp(entropy of the assignment shares): how many experts are used, between 1 and E; 0 without assignments.

    >>> round(effective_experts(torch.tensor([5.0, 5.0, 0.0])), 6)
    2.0
    """
    total = assigned_E.sum()
    return math.exp(torch.special.entr(assigned_E.double() / total).sum()) if total > 0 else 0.0


@dataclass
class LayerCounts:
    """Sums over some steps for one layer. assigned_ME, placed_ME: token choices. tokens_M, lost_M (tokens none of whose choices
    found a place), confidence_M: per modality."""

    assigned_ME: Tensor
    placed_ME: Tensor
    tokens_M: Tensor
    lost_M: Tensor
    confidence_M: Tensor

    @classmethod
    def zeros(cls, experts: int) -> LayerCounts:
        """No counts yet."""
        counts = torch.zeros(len(MODALITIES), experts, dtype=torch.int64)
        tokens = torch.zeros(len(MODALITIES), dtype=torch.int64)
        return cls(counts, counts.clone(), tokens, tokens.clone(), tokens.double())

    def add(self, routing: Routing, layout: Layout) -> None:
        """Count one step's routing."""
        real_T, modality_T = layout.real_T, layout.modality_T
        experts = self.assigned_ME.shape[1]
        bin_TK = modality_T[:, None] * experts + routing.expert_TK
        assigned_ME = torch.bincount(bin_TK[routing.asked_TK], minlength=2 * experts).view(2, experts)
        placed_ME = torch.bincount(bin_TK[routing.placed_TK], minlength=2 * experts).view(2, experts)
        confidence_T = routing.probs_TE.detach().amax(1)[real_T].double()
        self.assigned_ME += assigned_ME.cpu()
        self.placed_ME += placed_ME.cpu()
        self.tokens_M += torch.bincount(modality_T[real_T], minlength=2).cpu()
        self.lost_M += torch.bincount(modality_T[real_T & ~routing.placed_TK.any(1)], minlength=2).cpu()
        self.confidence_M += torch.bincount(modality_T[real_T], confidence_T, minlength=2).cpu()


class RoutingMeter:
    """Adds up what the routers did between two rows of the log."""

    def __init__(self) -> None:
        self._layers: dict[int, LayerCounts] = {}

    def add(self, routings: dict[int, Routing], layout: Layout | None) -> None:
        """Count one step; nothing to do for a dense model."""
        for layer, routing in routings.items():
            assert layout is not None
            experts = routing.logits_TE.shape[1]
            self._layers.setdefault(layer, LayerCounts.zeros(experts)).add(routing, layout)

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
                "confidence": float(counts.confidence_M[m] / counts.tokens_M[m].clamp(min=1)),
            }
            for layer, counts in self._layers.items()
            for m, name in enumerate(MODALITIES)
            for expert in range(counts.assigned_ME.shape[1])
        ]

    def summary(self) -> dict[str, float]:
        """Per layer and modality: share of choices placed, of tokens without any place, effective experts, gate confidence."""
        summary: dict[str, float] = {}
        for layer, counts in self._layers.items():
            for m, name in enumerate(MODALITIES):
                prefix = f"block{layer}/{name}"
                assigned = counts.assigned_ME[m].sum().clamp(min=1)
                summary[f"{prefix}_placed"] = float(counts.placed_ME[m].sum() / assigned)
                summary[f"{prefix}_lost"] = float(counts.lost_M[m] / counts.tokens_M[m].clamp(min=1))
                summary[f"{prefix}_effective_experts"] = effective_experts(counts.assigned_ME[m])
                summary[f"{prefix}_confidence"] = float(counts.confidence_M[m] / counts.tokens_M[m].clamp(min=1))
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
                torch.tensor(c["assigned_ME"]),
                torch.tensor(c["placed_ME"]),
                torch.tensor(c["tokens_M"]),
                torch.tensor(c["lost_M"]),
                torch.tensor(c["confidence_M"], dtype=torch.float64),
            )
            for layer, c in state.items()
        }


@dataclass
class FiniteGuard:
    """Skips a step whose loss or gradient is not finite; too many in a row end the training."""

    limit: int
    in_a_row: int = field(default=0)
    skipped: int = field(default=0)

    def passes(self, loss: float, gradient_norm: float, step: int, keys: tuple[str, ...]) -> bool:
        """Whether the step may be taken. UserError after `limit` bad ones in a row, with the batch's first keys."""
        if math.isfinite(loss) and math.isfinite(gradient_norm):
            self.in_a_row = 0
            return True
        self.in_a_row += 1
        self.skipped += 1
        if self.in_a_row >= self.limit:
            raise UserError(
                f"training diverged: at step {step} the loss was {loss} and the gradient norm {gradient_norm}, not finite for "
                f"{self.in_a_row} steps in a row (batch begins with {', '.join(keys[:3])}); lower train.lr or look at these"
            )
        return False
