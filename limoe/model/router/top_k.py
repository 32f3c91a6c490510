"""Top-K token choice: every token takes its K best experts, who take tokens up to their capacity (V-MoE; LIMoE with BPR).

Axes: T rows of the stream, E experts, K choices a token.
"""

from __future__ import annotations

from torch import Tensor

from limoe.model.router.base import Draws, Router
from limoe.model.router.places import Places, claim, claim_order, unbounded
from limoe.model.tokens import Layout


def largest(scores_TE: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(score_TK, expert_TK int64): each row's k largest, best first; ties to the lower number, which torch.topk leaves open.

    >>> largest(torch.tensor([[0.2, 0.4, 0.4]]), 2)[1].tolist()
    [[1, 2]]
    """
    if k == 1:
        score_T1, expert_T1 = scores_TE.max(1, keepdim=True)
        return score_T1, expert_T1
    expert_TK = scores_TE.detach().argsort(dim=1, descending=True, stable=True)[:, :k]
    return scores_TE.gather(1, expert_TK), expert_TK


class TopKRouter(Router):
    """The paper's router. Softmax comes before the choice; places are claimed by `priority`."""

    def choose(self, scores_TE: Tensor, layout: Layout, draws: Draws | None) -> tuple[Tensor, Tensor, Places]:
        """The K largest scores, which are the gates."""
        gate_TK, expert_TK = largest(scores_TE, self.moe.k)
        return expert_TK, gate_TK, self.place(expert_TK, gate_TK, layout, draws)

    def place(self, expert_TK: Tensor, gate_TK: Tensor, layout: Layout, draws: Draws | None) -> Places:
        """Places within capacity in training, all of them in evaluation."""
        if not self.training or draws is None:
            return unbounded(expert_TK, layout)
        order_T = claim_order(self.moe.priority, gate_TK.detach(), layout, draws.order_T)
        return claim(expert_TK, order_T, layout, self.moe.capacity_factor, self.moe.experts)
