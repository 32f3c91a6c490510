"""Loss-free balancing (arXiv 2408.15664): a bias on the selection score alone, moved after each step, instead of a loss.

Axes: T rows of the stream, E experts, K choices a token, M modalities (text, image).
"""

from __future__ import annotations

import torch
from torch import Tensor

from limoe.config import MoeParams
from limoe.model.router.base import Draws, Routing
from limoe.model.router.places import Places
from limoe.model.router.top_k import TopKRouter, largest
from limoe.model.tokens import MODALITIES, Layout


class LossFreeRouter(TopKRouter):
    """Like top-K, but the experts are those with the largest score plus bias; gates are scores without it.

    bias_ME: float32 buffer, in units of probability; one row a modality, equal rows if `bias_scope` is joint. Whether this holds
    for mixed modalities nobody has published: a bias a modality is ours.
    """

    bias_ME: Tensor

    def __init__(self, width: int, moe: MoeParams, layer: int) -> None:
        super().__init__(width, moe, layer)
        self.register_buffer("bias_ME", torch.zeros(len(MODALITIES), moe.experts))

    def choose(self, scores_TE: Tensor, layout: Layout, draws: Draws | None) -> tuple[Tensor, Tensor, Places]:
        """The K largest of score plus bias, best first."""
        _, expert_TK = largest(scores_TE.detach() + self.bias_ME[layout.modality_T], self.moe.k)
        gate_TK = scores_TE.gather(1, expert_TK)
        return expert_TK, gate_TK, self.place(expert_TK, gate_TK, layout, draws)

    def observe(self, routing: Routing, layout: Layout) -> Tensor:
        """float64 (M, E): how many choices fell on each expert, placed or not."""
        chosen_TE = torch.zeros_like(routing.logits_TE, dtype=torch.float64)
        chosen_TE.scatter_(1, routing.expert_TK, routing.asked_TK.double())
        return torch.stack([(chosen_TE * (layout.modality_T == m)[:, None]).sum(0) for m in range(len(MODALITIES))])

    @torch.no_grad()
    def adjust(self, observed: Tensor) -> None:
        """bias += rate * sign(mean load - load), over each modality's choices or over both."""
        load_ME = observed.sum(0, keepdim=True).expand_as(observed) if self.moe.bias_scope == "joint" else observed
        self.bias_ME += self.moe.bias_rate * (load_ME.mean(1, keepdim=True) - load_ME).sign()
