"""Expert parallelism: placed choices go to the ranks that own their experts, and what these compute comes back.

Axes: T rows of this rank's stream, K choices a row, E experts of all owners, X owners, O = E / X experts of one of them, S slots:
this rank's placed choices, sorted by expert; R rows that have arrived here, D width.

How many rows go from where to where depends on what the routers decided: the counts are exchanged first, and the host waits for
them. An owner sees what arrives as a stream of its own, in which every row goes to one expert, with gate 1: any kernel computes
it. Gates stay with the rows' own rank. All owners must make the same calls, however few rows they have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from limoe.model.choices import Choices
from limoe.model.rows import combine_rows, dispatch_rows
from limoe.world import World


def across_ranks(
    x_TD: Tensor, choices: Choices, experts: int, owners: World, compute: Callable[[Tensor, Choices], Tensor]
) -> Tensor:
    """(T, D) in the gates' dtype: the sum over a row's placed choices of gate times expert output.

    experts: E. owners: X ranks, each of which has the O experts that come at its turn. compute: what this one does with rows that
    choose among its own experts, (R, D) -> (R, D).
    """
    slot_TK, choice_S, counts_E, _ = choices.sorted(experts)
    sent_XO = counts_E.view(owners.size, -1)
    arriving_XO = torch.empty_like(sent_XO)
    dist.all_to_all_single(arriving_XO, sent_XO, group=owners.group)
    sent, arriving = torch.stack([sent_XO.sum(1), arriving_XO.sum(1)]).tolist()
    choice_S = choice_S[: sum(sent)]
    x_SD = dispatch_rows(x_TD, choices.row_of(choice_S), slot_TK, choices.placed_TK)
    x_RD = exchange(x_SD, sent, arriving, owners)
    own_XO = torch.arange(experts // owners.size, device=x_TD.device).expand_as(arriving_XO)
    expert_R = own_XO.flatten().repeat_interleave(arriving_XO.flatten(), output_size=len(x_RD))
    y_RD = compute(x_RD, Choices.sure(expert_R, x_RD.dtype))
    return combine_rows(exchange(y_RD, arriving, sent, owners), choices.gate_TK, slot_TK, choice_S)


def exchange(x_SD: Tensor, sent: list[int], arriving: list[int], world: World) -> Tensor:
    """(R, D): the rows that each rank has sent here, in the ranks' order. sent: how many go to each rank, `x_SD` being in that
    order; arriving: how many come from each. Gradients travel back."""
    out: Tensor = _Exchange.apply(x_SD, sent, arriving, world)
    return out


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_SD: Tensor, sent: list[int], arriving: list[int], world: World) -> Tensor:
        ctx.back = (arriving, sent, world)
        return _send(x_SD, sent, arriving, world)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _send(grads[0], *ctx.back), None, None, None


def _send(x_SD: Tensor, sent: list[int], arriving: list[int], world: World) -> Tensor:
    x_RD = x_SD.new_empty(sum(arriving), x_SD.shape[1])
    dist.all_to_all_single(x_RD, x_SD.contiguous(), arriving, sent, group=world.group)
    return x_RD
