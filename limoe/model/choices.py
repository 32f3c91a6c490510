"""What experts look at: which of them each row goes to, with which gate; and the orders in which kernels want that.

Axes: T rows of a stream, K choices a row, E experts, S slots of all experts, N = T * K choices, B bins: an expert each, and one
for choices without a place.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from limoe.model.router import Routing


class Choices(NamedTuple):
    """expert_TK, placed_TK, slot_TK and slots are those of a Routing (see there); gate_TK is 0 where a choice has no place, and
    its gradient stops there."""

    expert_TK: Tensor
    gate_TK: Tensor
    placed_TK: Tensor
    slot_TK: Tensor
    slots: int | None

    @classmethod
    def of(cls, routing: Routing) -> Choices:
        """What a router decided."""
        gate_TK = torch.where(routing.placed_TK, routing.gate_TK, 0)
        return cls(routing.expert_TK, gate_TK, routing.placed_TK, routing.slot_TK, routing.slots)

    @classmethod
    def sure(cls, expert_R: Tensor, dtype: torch.dtype) -> Choices:
        """Each row goes to one expert, with gate 1 (of this dtype): int64 (R,)."""
        expert_R1 = expert_R[:, None]
        placed_R1 = torch.ones_like(expert_R1, dtype=torch.bool)
        return cls(expert_R1, placed_R1.to(dtype), placed_R1, torch.zeros_like(expert_R1), None)

    def row_of(self, choice_S: Tensor) -> Tensor:
        """int64 (S,): the row of the stream in each slot; any row where there is none."""
        rows, choices = self.expert_TK.shape
        return (choice_S // choices).clamp(max=rows - 1)

    def slotted(self, experts: int, slots: int) -> tuple[Tensor, Tensor]:
        """(slot_TK, choice_S), as `combine_rows` wants them, with the places of expert e at e * slots and on: S = E * slots."""
        rows, choices = self.expert_TK.shape
        slot_TK = torch.where(self.placed_TK, self.expert_TK * slots + self.slot_TK, experts * slots)
        choice_S = torch.full((experts * slots + 1,), rows * choices, device=slot_TK.device)
        choice_S = choice_S.scatter(0, slot_TK.flatten(), torch.arange(rows * choices, device=slot_TK.device))[:-1]
        return torch.where(self.placed_TK, slot_TK, 0), choice_S

    def sorted(self, experts: int, multiple: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(slot_TK, choice_S, counts_E, placed_E): the placed choices, sorted by expert; how many slots each expert has, and
        choices.

        Slots are the choices, rounded up to a multiple; slots that are left over hold no choice, those after the last
        expert's included. S is the most that may be needed, whatever was decided.
        """
        bin_N = torch.where(self.placed_TK, self.expert_TK, experts).flatten()
        sorted_N, by_bin_N = bin_N.sort(stable=True)
        first_B = torch.searchsorted(sorted_N, torch.arange(experts + 1, device=bin_N.device))
        placed_E = first_B.diff()
        counts_E = (placed_E + multiple - 1) // multiple * multiple
        slots = len(bin_N) + experts * (multiple - 1)
        shift_B = F.pad((counts_E.cumsum(0) - counts_E) - first_B[:-1], (0, 1))
        slot_N = torch.arange(len(bin_N), device=bin_N.device) + shift_B[sorted_N]
        slot_N = torch.where(sorted_N < experts, slot_N, slots)  # choices without a place share one behind the last slot
        choice_S = torch.full((slots + 1,), len(bin_N), device=bin_N.device).scatter(0, slot_N, by_bin_N)[:-1]
        slot_N = torch.zeros_like(bin_N).scatter(0, by_bin_N, torch.where(sorted_N < experts, slot_N, 0))
        return slot_N.view(self.expert_TK.shape), choice_S, counts_E, placed_E
