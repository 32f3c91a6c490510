"""Who gets a place: experts have a capacity in each routing group, and choices claim its places in an order.

Axes: T rows of the stream, E experts, K choices a token, G routing groups, N = T * K choices in the order of their claims.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from limoe.model.tokens import IMAGE, TEXT, Layout

ROUNDING = 1e-9  # a capacity that is a whole number stays one


class Places(NamedTuple):
    """asked_TK, placed_TK, slot_TK and slots of a Routing (see there)."""

    asked_TK: Tensor
    placed_TK: Tensor
    slot_TK: Tensor
    slots: int | None


def unbounded(expert_TK: Tensor, layout: Layout) -> Places:
    """Every choice of every real row is placed: evaluation."""
    asked_TK = layout.real_T[:, None].expand(expert_TK.shape)
    return Places(asked_TK, asked_TK, torch.zeros_like(expert_TK), None)


def capacities(tokens_G: Tensor, k: int, factor: float, experts: int) -> Tensor:
    """int64 (G,): places an expert has in each group of that many real tokens: ceil(tokens * K * cf / E), at most tokens.

    >>> capacities(torch.tensor([100, 3]), k=1, factor=1.1, experts=2)  # 55.000000000000007 in floating point is 55
    tensor([55,  2])
    """
    fair_G = tokens_G.double() * k * factor / experts
    return torch.minimum(torch.ceil(fair_G - ROUNDING).long(), tokens_G)


def claim_order(priority: str, gate_TK: Tensor, layout: Layout, order_T: Tensor) -> Tensor:
    """int64 (T,): the rows in the order in which they claim places; ties, and what the priority leaves open, in the array's.

    bpr: largest gate first. shuffled: by `order_T`. image-first, text-first: by modality. first-come: the array's order.
    """
    if priority == "bpr":
        return gate_TK.amax(1).argsort(descending=True, stable=True)
    if priority == "shuffled":
        return order_T.argsort(stable=True)
    if priority in ("image-first", "text-first"):
        first = IMAGE if priority == "image-first" else TEXT
        return (layout.modality_T != first).to(torch.uint8).argsort(stable=True)
    return torch.arange(len(gate_TK), device=gate_TK.device)


def claim(expert_TK: Tensor, order_T: Tensor, layout: Layout, factor: float, experts: int) -> Places:
    """Rows claim in `order_T`, every first choice before any second one; an expert takes claims up to its capacity in the group.

    Padding rows claim nothing. An expert's places are those of its first group, then those of the second, and so on.
    """
    rows, choices = expert_TK.shape
    capacity_G = capacities(layout.tokens_G, choices, factor, experts)
    bins = layout.groups * experts
    bin_TK = torch.where(layout.real_T[:, None], layout.group_T[:, None] * experts + expert_TK, bins)
    bin_N = bin_TK[order_T].T.flatten()  # choice by choice, each in the order of claims
    sorted_N, by_bin_N = bin_N.sort(stable=True)
    first_B = torch.searchsorted(sorted_N, torch.arange(bins + 1, device=bin_N.device))
    rank_N = torch.arange(rows * choices, device=bin_N.device) - first_B[sorted_N]
    room_B = F.pad(capacity_G.repeat_interleave(experts, output_size=bins), (0, 1))  # the last bin, of padding, has no room
    offset_B = F.pad((capacity_G.cumsum(0) - capacity_G).repeat_interleave(experts, output_size=bins), (0, 1))
    fits_N = rank_N < room_B[sorted_N]
    target_N = (order_T[:, None] * choices + torch.arange(choices, device=order_T.device)).T.flatten()[by_bin_N]
    placed_TK = torch.empty_like(fits_N).scatter(0, target_N, fits_N).view(rows, choices)
    slot_TK = torch.empty_like(rank_N).scatter(0, target_N, rank_N + offset_B[sorted_N]).view(rows, choices)
    asked_TK = layout.real_T[:, None].expand(expert_TK.shape)
    return Places(asked_TK, placed_TK, slot_TK, slots_bound(rows, choices, factor, experts, layout.groups))


def slots_bound(rows: int, choices: int, factor: float, experts: int, ceilings: int) -> int:
    """Places an expert has at most in a stream of so many rows: capacities are rounded up `ceilings` times, bound by rows.

    Rows may be padding: a bound that depends on shapes alone keeps shapes the same from step to step.
    """
    return min(rows, int(rows * choices * factor / experts) + 1 + ceilings)
