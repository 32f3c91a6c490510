"""Expert choice (arXiv 2202.09368) with a quota for each modality: experts choose tokens, and images cannot crowd text out.

Axes: T rows of the stream, E experts, K experts of the most-chosen row, G routing groups, M modalities (text, image), Q = G * M
quotas.

Training: in each group an expert takes ceil(n K cf / E) of the n tokens of each modality, those with its largest scores.
Evaluation: a choice among batch-mates would make embeddings depend on the batch. An expert takes every token whose score reaches
its threshold for the modality: a moving average of the lowest score that it took in training.
"""

from __future__ import annotations

import torch
from torch import Tensor

from limoe.config import MoeParams
from limoe.model.router.base import Draws, Router, Routing
from limoe.model.router.places import Places, capacities, slots_bound
from limoe.model.router.top_k import largest
from limoe.model.tokens import MODALITIES, Layout


class ExpertChoiceRouter(Router):
    """threshold_ME: float32 buffer, scores from which an expert takes a token in evaluation; adjusted_M: how often it moved."""

    threshold_ME: Tensor
    adjusted_M: Tensor

    def __init__(self, width: int, moe: MoeParams, layer: int) -> None:
        super().__init__(width, moe, layer)
        self.register_buffer("threshold_ME", torch.full((len(MODALITIES), moe.experts), 1 / moe.experts))
        self.register_buffer("adjusted_M", torch.zeros(len(MODALITIES), dtype=torch.int64))

    def choose(self, scores_TE: Tensor, layout: Layout, draws: Draws | None) -> tuple[Tensor, Tensor, Places]:
        """As many choices a row as its most-chosen row has; a row's experts by descending score."""
        experts, slots = self.moe.experts, None
        if self.training and draws is not None:
            rank_TE = self._rank(scores_TE.detach(), layout)
            quota_Q = self._quotas(layout)
            taken_TE = (rank_TE < quota_Q[_quota_T(layout)][:, None]) & layout.real_T[:, None]
            slot_TE = rank_TE + (quota_Q.cumsum(0) - quota_Q)[_quota_T(layout)][:, None]
            slots = slots_bound(len(scores_TE), self.moe.k, self.moe.capacity_factor, experts, len(quota_Q))
        else:
            taken_TE = (scores_TE >= self.threshold_ME[layout.modality_T]) & layout.real_T[:, None]
            slot_TE = torch.zeros_like(taken_TE, dtype=torch.int64)
        columns = max(1, int(taken_TE.sum(1).max()))
        _, expert_TK = largest(torch.where(taken_TE, scores_TE.detach(), -1.0), columns)
        taken_TK = taken_TE.gather(1, expert_TK)
        return expert_TK, scores_TE.gather(1, expert_TK), Places(taken_TK, taken_TK, slot_TE.gather(1, expert_TK), slots)

    def observe(self, routing: Routing, layout: Layout) -> Tensor:
        """float64 (M, E + 1): the lowest score that each expert took, summed over groups; how many groups had the modality."""
        quotas = len(MODALITIES) * layout.groups
        quota_TK = _quota_T(layout)[:, None].expand(routing.expert_TK.shape)
        bin_N = (quota_TK * self.moe.experts + routing.expert_TK)[routing.placed_TK]
        score_N = routing.noisy_TE.detach().softmax(1).gather(1, routing.expert_TK)[routing.placed_TK].double()
        lowest_B = torch.full((quotas * self.moe.experts,), torch.inf, dtype=torch.float64, device=score_N.device)
        lowest_QE = lowest_B.scatter_reduce(0, bin_N, score_N, "amin").view(quotas, -1)
        present_Q1 = lowest_QE.isfinite().all(1, keepdim=True)
        sums_QE = torch.cat([torch.where(present_Q1, lowest_QE, 0.0), present_Q1.double()], dim=1)
        return sums_QE.view(layout.groups, len(MODALITIES), -1).sum(0)

    @torch.no_grad()
    def adjust(self, observed: Tensor) -> None:
        """The mean over groups enters a moving average that begins as a plain mean; an absent modality changes nothing."""
        present_M1 = observed[:, -1:]
        weight_M1 = (1 / (self.adjusted_M[:, None] + 1)).clamp(min=1 - self.moe.threshold_decay)
        mean_ME = observed[:, :-1] / present_M1.clamp(min=1)
        moved_ME = self.threshold_ME + weight_M1 * (mean_ME - self.threshold_ME)
        self.threshold_ME.copy_(torch.where(present_M1 > 0, moved_ME, self.threshold_ME))
        self.adjusted_M += present_M1[:, 0] > 0

    def _quotas(self, layout: Layout) -> Tensor:
        """int64 (Q,): tokens of each modality that an expert takes in each group, by the numbers of `_quota_T`."""
        quotas = len(MODALITIES) * layout.groups
        number_T = torch.where(layout.real_T, _quota_T(layout), quotas)
        tokens_Q = (number_T[:, None] == torch.arange(quotas, device=number_T.device)).sum(0)
        return capacities(tokens_Q, self.moe.k, self.moe.capacity_factor, self.moe.experts)

    def _rank(self, scores_TE: Tensor, layout: Layout) -> Tensor:
        """int64 (T, E): each row's rank by an expert's score in its group and modality; ties in the array's order."""
        quotas = len(MODALITIES) * layout.groups
        number_T = torch.where(layout.real_T, _quota_T(layout), quotas)
        by_score_TE = scores_TE.argsort(dim=0, descending=True, stable=True)
        sorted_TE, by_quota_TE = number_T[by_score_TE].sort(dim=0, stable=True)
        first_Q = torch.searchsorted(number_T.sort().values, torch.arange(quotas + 1, device=number_T.device))
        rank_TE = torch.arange(len(scores_TE), device=number_T.device)[:, None] - first_Q[sorted_TE]
        return torch.empty_like(rank_TE).scatter(0, by_score_TE.gather(0, by_quota_TE), rank_TE)


def _quota_T(layout: Layout) -> Tensor:
    """int64 (T,): which quota a row falls under, group * M + modality."""
    return layout.group_T * len(MODALITIES) + layout.modality_T
