"""Balanced routing that looks at no token: for benchmarks, and as the floor that a learned router must clear.

Axes: T rows of the stream, E experts, K choices a token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from limoe.model.router.base import Draws, Router
from limoe.model.router.places import Places, claim, unbounded
from limoe.model.tokens import Layout


class UniformRouter(Router):
    """Choice j of the i-th real token of its group goes to expert (i K + j) mod E, with that expert's probability as its gate.

    In evaluation i is the token's place in its own sequence, so that an embedding does not depend on its batch-mates.
    """

    def choose(self, scores_TE: Tensor, layout: Layout, draws: Draws | None) -> tuple[Tensor, Tensor, Places]:
        """Round robin in the array's order, which is the order of claims, too."""
        first_T1 = (layout.rank_T if self.training else layout.position_T)[:, None] * self.moe.k
        expert_TK = (first_T1 + torch.arange(self.moe.k, device=scores_TE.device)) % self.moe.experts
        gate_TK = scores_TE.gather(1, expert_TK)
        if not self.training or draws is None:
            return expert_TK, gate_TK, unbounded(expert_TK, layout)
        order_T = torch.arange(len(scores_TE), device=scores_TE.device)
        return expert_TK, gate_TK, claim(expert_TK, order_T, layout, self.moe.capacity_factor, self.moe.experts)
