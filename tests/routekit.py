"""Random decisions and experts; small random sparse layers for property tests: what hypothesis draws, the layer of it, and its
slow twin.

Axes: T rows, D width, E experts, K choices, M modalities.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import reference_routing as slow
import torch
from hypothesis import strategies as st
from modelkit import moe
from torch import Tensor

from limoe.model.encoder import MoeMlp
from limoe.model.experts import Experts
from limoe.model.router import Draws, NoiseKey, Router, Routing
from limoe.model.tokens import Layout

CPU = torch.device("cpu")
KERNELS = {"loop": torch.float64, "slots": torch.float64, "streamed": torch.float64, "grouped": torch.float32}
WIDTH, HIDDEN, LAYER = 8, 16, 3
PRIORITIES = ("bpr", "first-come", "shuffled", "image-first", "text-first")
ROUTERS = tuple((router, order) for router in ("top-k", "loss-free") for order in PRIORITIES)  # where the order is a choice
ROUTERS += (("expert-choice", "bpr"), ("uniform", "bpr"))


def decisions(rows: int, experts: int, k: int, drop: float, seed: int, dtype: torch.dtype = torch.float64) -> Routing:
    """Any: who is placed, and where, follows no rule but that a place is given once."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, experts, generator=generator, dtype=dtype)
    gate_TK, expert_TK = logits.softmax(1).topk(k, dim=1)
    placed_TK = torch.rand(rows, k, generator=generator) >= drop
    slot_TK = torch.stack([torch.randperm(rows + 3, generator=generator)[:rows] for _ in range(experts)], dim=1)
    slot_TK = torch.where(placed_TK, slot_TK.gather(1, expert_TK), -1)
    asked_TK = torch.ones_like(placed_TK)
    return Routing(logits, logits, logits.softmax(1), expert_TK, gate_TK, asked_TK, placed_TK, slot_TK, rows + 3, 0.0)


def make_experts(experts: int, kernel: str, seed: int) -> Experts:
    torch.manual_seed(seed)
    module = Experts(experts, WIDTH, HIDDEN, moe(experts=experts, kernel=kernel)).double()
    for weight in module.parameters():
        torch.nn.init.normal_(weight)
    return module.to(KERNELS[kernel])


@dataclass(frozen=True)
class Case:
    """A batch and the settings of its sparse layer. mix: mixed, images or texts. ties: logits are few integers, without noise."""

    experts: int
    k: int
    pairs: int
    group_pairs: int
    patches: int
    mix: str
    factor: float
    bucket: int
    noise: float
    ties: bool
    renormalise: bool
    seed: int

    @property
    def random(self) -> torch.Generator:
        """The same numbers at each call."""
        return torch.Generator().manual_seed(self.seed)

    @property
    def lengths_B(self) -> Tensor:
        """Tokens of each caption, 1 to 4."""
        return torch.randint(1, 5, (self.pairs,), generator=self.random)

    def layout(self, first: int = 0, last: int | None = None, bucket: int | None = None) -> Layout:
        """Of the pairs from `first` up to `last`."""
        lengths_B = self.lengths_B[first:last]
        images = 0 if self.mix == "texts" else len(lengths_B)
        shape = (self.bucket if bucket is None else bucket, 1)
        texts = None if self.mix == "images" else lengths_B
        return Layout.of(images, self.patches, texts, CPU, group_pairs=self.group_pairs, text_shape=shape)

    def rows(self) -> tuple[list[int | None], list[int], list[int]]:
        """(group, modality, pair) of each row, row by row; a padding row has the group None."""
        pairs, lengths = range(self.pairs), self.lengths_B.tolist()
        images = [(pair, slow.IMAGE) for pair in pairs for _ in range(self.patches)] if self.mix != "texts" else []
        texts = [(pair, slow.TEXT) for pair in pairs for _ in range(lengths[pair])] if self.mix != "images" else []
        padding = -len(texts) % self.bucket
        rows = images + texts
        groups = [pair // self.group_pairs for pair, _ in rows] + [None] * padding
        return groups, [m for _, m in rows] + [slow.TEXT] * padding, [pair for pair, _ in rows] + [-1] * padding

    def rules(self, router: str, priority: str, training: bool) -> slow.Rules:
        return slow.Rules(router, self.k, self.factor, priority, self.renormalise, training)

    def x_TD(self, dtype: torch.dtype) -> Tensor:
        """Rows of the stream: in [-2, 2] in steps of 1/8, so that sums of products are exact; padding rows hold garbage."""
        groups, _, _ = self.rows()
        x_TD = torch.randint(-16, 17, (len(groups), WIDTH), generator=self.random) / 8
        if self.ties:
            x_TD[:, : self.experts] = torch.randint(0, 3, (len(groups), self.experts), generator=self.random).float()
        x_TD[[t for t, group in enumerate(groups) if group is None]] = 100.0
        return x_TD.to(dtype)

    def layer(self, router: str, priority: str, kernel: str, dtype: torch.dtype, **changes: object) -> MoeMlp:
        """A sparse MLP whose weights, bias and thresholds are all random."""
        settings = {"experts": self.experts, "k": self.k, "capacity_factor": self.factor, "noise": self.noise}
        settings |= {"renormalise": self.renormalise, "router": router, "priority": priority, "kernel": kernel}
        settings |= {"group_pairs": self.group_pairs, "aux_weights": {"load": 0.0}}
        torch.manual_seed(self.seed)
        module = MoeMlp(WIDTH, HIDDEN, moe(**(settings | changes)), LAYER).to(dtype)
        with torch.no_grad():
            for weight in module.experts.parameters():
                weight.copy_(torch.randn(weight.shape) / 2)
            # Irregular when there is no noise to keep logits apart, in steps of 1/8 when there is.
            weight_ED = torch.randn(self.experts, WIDTH) if self.noise == 0 else torch.randint(-8, 9, (self.experts, WIDTH)) / 8
            module.router.weight.copy_(torch.eye(self.experts, WIDTH) if self.ties else weight_ED)
            for name, buffer in module.router.named_buffers():
                if name == "bias_ME":
                    buffer.copy_(torch.randn(buffer.shape) / self.experts)
                if name == "threshold_ME":
                    buffer.copy_(torch.rand(buffer.shape) * 2 / self.experts)
        return module

    def draws(self, layout: Layout, step: int = 0, first_group: int = 0) -> Draws:
        return NoiseKey(self.seed, step, first_group).draw(layout, LAYER, self.experts)


@st.composite
def cases(draw: st.DrawFn, ties: bool | None = None, noise: float | None = None) -> Case:
    """All that the properties range over: experts, K up to E, groups of one token up to all, capacity from scarce to ample."""
    experts = draw(st.integers(2, 6))
    tied = draw(st.booleans()) if ties is None else ties
    return Case(
        experts=experts,
        k=draw(st.integers(1, min(3, experts))),
        pairs=draw(st.integers(1, 6)),
        group_pairs=draw(st.integers(1, 6)),
        patches=draw(st.integers(1, 3)),
        mix=draw(st.sampled_from(["mixed", "images", "texts"])),
        factor=draw(st.sampled_from([0.3, 0.7, 1.0, 1.05, 2.0, 8.0])),
        bucket=draw(st.sampled_from([1, 16])),
        noise=0.0 if tied else draw(st.sampled_from([0.0, 1.0, 3.0])) if noise is None else noise,
        ties=tied,
        renormalise=draw(st.booleans()),
        seed=draw(st.integers(0, 10_000)),
    )


def state(router: Router) -> list[list[float]] | None:
    """[modality][expert]: the bias or the thresholds of the router."""
    buffers = dict(router.named_buffers())
    found = buffers.get("bias_ME", buffers.get("threshold_ME"))
    return None if found is None else found.tolist()


def asked(routing: Routing) -> list[list[int]]:
    """The experts that each row asks for, best first."""
    rows = zip(routing.expert_TK.tolist(), routing.asked_TK.tolist(), strict=True)
    return [[e for e, a in zip(experts, made, strict=True) if a] for experts, made in rows]


def placed(routing: Routing) -> list[list[bool]]:
    """Beside `asked`: whether the choice found a place."""
    rows = zip(routing.placed_TK.tolist(), routing.asked_TK.tolist(), strict=True)
    return [[p for p, a in zip(found, made, strict=True) if a] for found, made in rows]


class Slow(NamedTuple):
    """What the slow layer returns: its output and the three tensors that losses look at."""

    out_TD: Tensor
    logits_TE: Tensor
    noisy_TE: Tensor
    probs_TE: Tensor


def slow_layer(x_TD: Tensor, noise_TE: Tensor, routing: Routing, weights: list[Tensor], renormalise: bool) -> Slow:
    """The layer in plain differentiable torch, row by row, given who asks for what and what is placed.

    weights: the router's, then w1, b1, w2, b2 of the experts.
    """
    router_ED, w1, b1, w2, b2 = weights
    logits_TE = x_TD @ router_ED.T
    noisy_TE = logits_TE + noise_TE
    out = []
    for x, score, experts, found in zip(x_TD, noisy_TE.softmax(1), asked(routing), placed(routing), strict=True):
        total = sum(score[e] for e in experts) if renormalise else 1.0
        row = torch.zeros_like(x)
        for e, p in zip(experts, found, strict=True):
            if p:
                up = x @ w1[e] + b1[e]
                row = row + score[e] / total * ((up * (1 + torch.erf(up / math.sqrt(2))) / 2) @ w2[e] + b2[e])
        out.append(row)
    return Slow(torch.stack(out), logits_TE, noisy_TE, logits_TE.softmax(1))


def permuted(layout: Layout, order_T: Tensor) -> Layout:
    """The layout whose row i is the old row order_T[i]."""
    rows = {name: getattr(layout, name)[order_T] for name in ("modality_T", "real_T", "group_T")}
    return replace(layout, **rows)
