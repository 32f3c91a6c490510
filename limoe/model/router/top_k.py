"""Top-K token choice: every token takes its K best experts, who take tokens up to their capacity (V-MoE; LIMoE with BPR).

Axes: T rows of the stream, E experts, K choices a token.
"""

from __future__ import annotations

from torch import Tensor

from limoe.model.router.base import Draws, Router
from limoe.model.router.places import Places, claim, claim_order, unbounded
from limoe.model.tokens import Layout


class TopKRouter(Router):
    """The paper's router. Softmax comes before the choice; places are claimed by `priority`."""

    def choose(self, scores_TE: Tensor, layout: Layout, draws: Draws | None) -> tuple[Tensor, Tensor, Places]:
        """The K largest scores, which are the gates."""
        gate_TK, expert_TK = scores_TE.topk(self.moe.k, dim=1)
        return expert_TK, gate_TK, self.place(expert_TK, gate_TK, layout, draws)

    def place(self, expert_TK: Tensor, gate_TK: Tensor, layout: Layout, draws: Draws | None) -> Places:
        """Places within capacity in training, all of them in evaluation."""
        if not self.training or draws is None:
            return unbounded(expert_TK, layout)
        order_T = claim_order(self.moe.priority, gate_TK.detach(), layout, draws.order_T)
        return claim(expert_TK, order_T, layout, self.moe.capacity_factor, self.moe.experts)
