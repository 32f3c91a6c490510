"""Top-K token choice with Batch Priority Routing (LIMoE, arXiv 2206.02770; V-MoE, arXiv 2106.05974, section 2 and appendix C).

Axes: T rows of the stream, E experts, K choices a token, G routing groups, N choices = T * K in the order of their claims.

The router returns a value and keeps nothing. Everything here is float32: logits, noise, softmax, gates.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limoe.config import MoeParams
from limoe.model.tokens import Layout


@dataclass(frozen=True)
class NoiseKey:
    """Names the router noise of a step, so that it does not depend on the order of draws: (seed, step, layer, group)."""

    seed: int
    step: int

    def draw(self, shape: tuple[int, int], layer: int, group: int, device: torch.device) -> Tensor:
        """Standard normal noise of this shape for a layer and a routing group."""
        digest = hashlib.blake2b(f"{self.seed}/{self.step}/{layer}/{group}".encode(), digest_size=7).digest()
        generator = torch.Generator(device).manual_seed(int.from_bytes(digest, "big"))
        return torch.randn(shape, generator=generator, device=device)


@dataclass(frozen=True)
class Routing:
    """What a router decided for the T rows of a stream.

    logits_TE, noisy_TE: float32, before and after noise (the same tensor without it). probs_TE: softmax of the clean logits.
    expert_TK: int64, the experts chosen, best first. gate_TK: float32, their (noisy) probabilities, not renormalised.
    placed_TK: bool, whether the choice found a place within capacity; False on padding rows. sigma: the noise's deviation.
    """

    logits_TE: Tensor
    noisy_TE: Tensor
    probs_TE: Tensor
    expert_TK: Tensor
    gate_TK: Tensor
    placed_TK: Tensor
    sigma: float


def claim_order(gate_TK: Tensor, priority: str) -> Tensor:
    """int64 (T,): the rows in the order in which they claim places. `bpr`: largest gate first, ties in the array's order."""
    if priority == "first-come":
        return torch.arange(gate_TK.shape[0], device=gate_TK.device)
    return gate_TK[:, 0].argsort(descending=True, stable=True)


def place(expert_TK: Tensor, order_T: Tensor, group_T: Tensor, real_T: Tensor, capacity_G: Tensor, experts: int) -> Tensor:
    """bool (T, K): which choices find a place. Rows claim in `order_T`; every first choice goes before any second choice.

    capacity_G: int64, places of each expert in each group. Padding rows (real_T False) claim nothing.

    >>> one_group, real = torch.zeros(3, dtype=torch.long), torch.ones(3, dtype=torch.bool)
    >>> place(torch.tensor([[0], [0], [1]]), torch.tensor([1, 0, 2]), one_group, real, torch.tensor([1]), 2).flatten().tolist()
    [False, True, True]
    """
    rows, choices = expert_TK.shape
    bin_TK = torch.where(real_T[:, None], group_T[:, None] * experts + expert_TK, len(capacity_G) * experts)
    bin_N = bin_TK[order_T].T.flatten()  # choice by choice, each in the order of claims
    by_bin_N = bin_N.argsort(stable=True)
    sorted_N = bin_N[by_bin_N]
    first_N = torch.searchsorted(sorted_N, sorted_N)
    rank_N = torch.arange(rows * choices, device=bin_N.device) - first_N
    room_N = F.pad(capacity_G.repeat_interleave(experts), (0, 1))[sorted_N]  # the last bin, of padding, has no room
    fits_N = torch.empty_like(bin_N, dtype=torch.bool)
    fits_N[by_bin_N] = rank_N < room_N
    placed_TK = torch.empty_like(expert_TK, dtype=torch.bool)
    placed_TK[order_T] = fits_N.view(choices, rows).T
    return placed_TK


def capacities(tokens_G: Tensor, k: int, factor: float, experts: int) -> Tensor:
    """int64 (G,): places an expert has in each group of that many real tokens, ceil(tokens * K * cf / E)."""
    return torch.ceil(tokens_G.double() * k * factor / experts).long()


class Router(nn.Module):
    """Bias-free linear router. Training adds noise and keeps to the capacity; evaluation is noise-free and drops nothing."""

    def __init__(self, width: int, moe: MoeParams, layer: int) -> None:
        super().__init__()
        self.moe = moe
        self.layer = layer
        self.weight = nn.Parameter(torch.randn(moe.experts, width) * width**-0.5)

    def forward(self, x_TD: Tensor, layout: Layout, noise: NoiseKey | None) -> Routing:
        """Route the rows of `x_TD`. In training a NoiseKey is needed if params ask for noise."""
        with torch.autocast(x_TD.device.type, enabled=False):
            logits_TE = F.linear(x_TD.to(self.weight.dtype), self.weight)
            noisy_TE = logits_TE
            sigma = self.moe.sigma if self.training else 0.0
            if sigma > 0:
                if noise is None:
                    raise ValueError("a router in training needs a NoiseKey")
                noisy_TE = logits_TE + sigma * self._noise(layout, noise).to(logits_TE.dtype)
            gate_TK, expert_TK = noisy_TE.softmax(1).topk(self.moe.k, dim=1)
            placed_TK = self._place(expert_TK, gate_TK, layout)
            return Routing(logits_TE, noisy_TE, logits_TE.softmax(1), expert_TK, gate_TK, placed_TK, sigma)

    def _place(self, expert_TK: Tensor, gate_TK: Tensor, layout: Layout) -> Tensor:
        if not self.training:
            return layout.real_T[:, None].expand(expert_TK.shape)
        tokens_G = torch.bincount(layout.group_T[layout.real_T], minlength=layout.groups)
        capacity_G = capacities(tokens_G, self.moe.k, self.moe.capacity_factor, self.moe.experts)
        order_T = claim_order(gate_TK.detach(), self.moe.priority)
        return place(expert_TK, order_T, layout.group_T, layout.real_T, capacity_G, self.moe.experts)

    def _noise(self, layout: Layout, noise: NoiseKey) -> Tensor:
        """(T, E), keyed by group: a group's rows get the same noise whichever batch they come in; none on padding rows."""
        out_TE = torch.zeros(len(layout.group_T), self.moe.experts, device=layout.group_T.device)
        for group in range(layout.groups):
            rows = ((layout.group_T == group) & layout.real_T).nonzero().squeeze(1)
            out_TE[rows] = noise.draw((len(rows), self.moe.experts), self.layer, group, out_TE.device)
        return out_TE
