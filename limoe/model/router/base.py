"""What every router is and returns (LIMoE, arXiv 2206.02770; V-MoE, arXiv 2106.05974, section 2).

Axes: T rows of the stream, D width, E experts, K choices a token, G routing groups, M modalities (text, image).

A router returns a value and keeps nothing but its weight; two routers also have one buffer, which `adjust` alone moves. All of it
is float32: logits, noise, softmax, gates.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limoe.config import MoeParams
from limoe.model.router.places import Places
from limoe.model.tokens import IMAGE, Layout


@dataclass(frozen=True)
class Draws:
    """The random numbers of one layer and step: noise_TE standard normal, zero on padding rows; order_T uniform on [0, 1)."""

    noise_TE: Tensor
    order_T: Tensor


@dataclass(frozen=True)
class NoiseKey:
    """Names the randomness of a step's routing: (seed, step, layer, group), never the order of draws.

    first_group: number, within the whole batch, of the first routing group that is here. So a group gets the same numbers in
    whichever micro-batch or on whichever rank it is routed.
    """

    seed: int
    step: int
    first_group: int = 0

    def draw(self, layout: Layout, layer: int, experts: int) -> Draws:
        """The numbers for the rows of `layout` in this layer. A group draws for its pictures' rows, then for its captions'."""
        device, rows_GM = layout.group_T.device, layout.rows_GM.tolist()
        noise, order = [], []
        for group, rows_M in enumerate(rows_GM):
            name = f"{self.seed}/{self.step}/{layer}/{self.first_group + group}"
            digest = hashlib.blake2b(name.encode(), digest_size=7).digest()
            generator = torch.Generator(device).manual_seed(int.from_bytes(digest, "big"))
            noise.append(torch.randn(sum(rows_M), experts, generator=generator, device=device))
            order.append(torch.rand(sum(rows_M), generator=generator, device=device))
        images = [rows_M[IMAGE] for rows_M in rows_GM]
        return Draws(*(_in_stream(drawn, images, len(layout.group_T)) for drawn in (noise, order)))


@dataclass(frozen=True)
class Routing:
    """What a router decided for the T rows of a stream.

    logits_TE, noisy_TE: float32, before and after noise (the same tensor without it). probs_TE: softmax of the clean logits.
    expert_TK: int64, the experts chosen, best first. gate_TK: float32, what their outputs are multiplied with. asked_TK: bool,
    whether the choice was made at all: False on padding rows, and beyond a row's last choice where rows have unequally many.
    placed_TK: bool, whether the choice found a place within capacity. slot_TK: int64, which of its expert's places it has, below
    `slots`, valid where placed; slots: places that each expert has, None where nothing is bounded (evaluation).
    sigma: the noise's standard deviation.
    """

    logits_TE: Tensor
    noisy_TE: Tensor
    probs_TE: Tensor
    expert_TK: Tensor
    gate_TK: Tensor
    asked_TK: Tensor
    placed_TK: Tensor
    slot_TK: Tensor
    slots: int | None
    sigma: float


def _in_stream(drawn: list[Tensor], images: list[int], rows: int) -> Tensor:
    """What was drawn group by group in the order of the stream: all groups' pictures, all groups' captions, zeros for padding."""
    parts = [of_group[:first] for of_group, first in zip(drawn, images, strict=True)]
    parts += [of_group[first:] for of_group, first in zip(drawn, images, strict=True)]
    padding = drawn[0].new_zeros(rows - sum(map(len, drawn)), *drawn[0].shape[1:])
    return torch.cat([*parts, padding])


class Router(nn.Module, ABC):
    """A bias-free linear map to logits, and a choice. Training adds noise and keeps to a capacity; evaluation has neither."""

    def __init__(self, width: int, moe: MoeParams, layer: int) -> None:
        super().__init__()
        self.moe = moe
        self.layer = layer
        self.weight = nn.Parameter(torch.randn(moe.experts, width) * width**-0.5)

    def forward(self, x_TD: Tensor, layout: Layout, draws: Draws | None) -> Routing:
        """Route the rows of `x_TD`. In training `draws` are needed (ValueError without); evaluation ignores them."""
        if self.training and draws is None:
            raise ValueError("a router in training needs its Draws (NoiseKey.draw)")
        with torch.autocast(x_TD.device.type, enabled=False):
            logits_TE = F.linear(x_TD.to(self.weight.dtype), self.weight)
            sigma = self.moe.sigma if self.training else 0.0
            noisy_TE = logits_TE
            if sigma > 0 and draws is not None:
                noisy_TE = torch.add(logits_TE, draws.noise_TE.to(logits_TE.dtype), alpha=sigma)
            probs_TE = logits_TE.softmax(1)
            scores_TE = noisy_TE.softmax(1) if sigma > 0 else probs_TE
            expert_TK, gate_TK, places = self.choose(scores_TE, layout, draws)
            if self.moe.renormalise:
                asked_TK = gate_TK * places.asked_TK
                gate_TK = asked_TK / asked_TK.sum(1, keepdim=True).clamp(min=torch.finfo(gate_TK.dtype).tiny)
        return Routing(logits_TE, noisy_TE, probs_TE, expert_TK, gate_TK, *places, sigma)

    @abstractmethod
    def choose(self, scores_TE: Tensor, layout: Layout, draws: Draws | None) -> tuple[Tensor, Tensor, Places]:
        """(expert_TK, gate_TK, places) from the noisy softmax."""

    def observe(self, routing: Routing, layout: Layout) -> Tensor:  # noqa: ARG002  # this router has nothing to adjust
        """What `adjust` needs of one routing; float64, and may be summed over micro-batches and ranks."""
        return routing.probs_TE.new_zeros(0, dtype=torch.float64)

    def adjust(self, observed: Tensor) -> None:
        """Move the router's buffer, if it has one: once an optimiser step, with the sum of what was observed in it."""
