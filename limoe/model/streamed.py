"""The experts' MLPs one after the other, with as little memory traffic as the arithmetic allows.

Axes: T rows of the stream, S slots sorted by expert, K choices a token, E experts, D width, F hidden width.

Moving numbers is what costs here, not multiplying them. Where the experts' weights do not fit into the cache (E = 32 at width 768
has 600 MB of them), autograd would cast all of them before the first product, keep each expert's gradient by itself, and stack
and cast them at the end. And where the stream does not fit, every tensor of its size is fresh memory, which costs ten times what
writing to it does (LOG.md). So a weight is cast when its expert's turn comes, a gradient is written where it stays, in memory of
the last step's if that has been let go of, and an expert's rows are taken from the stream and added to the output in its turn: no
sorted copy of the stream ever exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from limoe.model.recycled import RECYCLED


class Slots(NamedTuple):
    """choice_S: int64, the (row, choice) pair in each slot as row * K + choice, T * K where there is none. counts: slots of each
    expert; placed: how many of them, the first ones, hold a choice."""

    choice_S: Tensor
    counts: list[int]
    placed: list[int]

    def of_experts(self, choices: int, rows: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """For each expert: the row of the stream in each slot (any where there is none), the choices placed, and their rows."""
        found = []
        for choice_s, placed in zip(torch.split(self.choice_S, self.counts), self.placed, strict=True):
            row_s = (choice_s // choices).clamp(max=rows - 1)
            found.append((row_s, choice_s[:placed], row_s[:placed]))
        return found


class _StreamedExperts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        keep: bool,
        slots: Slots,
        x_TD: Tensor,
        gate_TK: Tensor,
        w1_EDF: Tensor,
        b1_EF: Tensor,
        w2_EFD: Tensor,
        b2_ED: Tensor,
    ) -> Tensor:
        gate_N, dtype, kept = gate_TK.flatten(), x_TD.dtype, []
        out_TD = torch.zeros(x_TD.shape, dtype=gate_TK.dtype, device=x_TD.device)
        before_SF, after_SF = (_hidden(slots, w1_EDF, dtype, keep) for _ in range(2))
        each = zip(slots.of_experts(gate_TK.shape[1], len(x_TD)), before_SF, after_SF, strict=True)
        for e, ((row_s, choice_s, placed_s), before, after) in enumerate(each):
            torch.addmm(b1_EF[e].to(dtype), x_TD.index_select(0, row_s), w1_EDF[e].to(dtype), out=before)
            torch.ops.aten.gelu.out(before, out=after)
            y = torch.addmm(b2_ED[e].to(dtype), after, w2_EFD[e].to(dtype))
            out_TD.index_add_(0, placed_s, y[: len(placed_s)] * gate_N[choice_s, None])
            kept += [before, after, y] if keep else []
        ctx.slots = slots
        ctx.save_for_backward(x_TD, gate_TK, w1_EDF, b1_EF, w2_EFD, b2_ED, *kept)
        return out_TD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, gate_TK, w1_EDF, b1_EF, w2_EFD, b2_ED, *kept = ctx.saved_tensors
        gw1_EDF, gb1_EF, gw2_EFD, gb2_ED = (RECYCLED.empty_like(weight) for weight in (w1_EDF, b1_EF, w2_EFD, b2_ED))
        gate_N, dtype = gate_TK.flatten(), x_TD.dtype
        ggate_N = torch.zeros_like(gate_N)
        gx_TD = torch.zeros(x_TD.shape, dtype=dtype if gate_TK.shape[1] == 1 else gate_TK.dtype, device=x_TD.device)
        each = zip(ctx.slots.of_experts(gate_TK.shape[1], len(x_TD)), kept[::3], kept[1::3], kept[2::3], strict=True)
        for e, ((row_s, choice_s, placed_s), before, after, y) in enumerate(each):
            gout = grads[0].index_select(0, row_s)
            gout[len(placed_s) :] = 0
            ggate_N[choice_s] = (gout * y)[: len(placed_s)].sum(1)
            gout[: len(placed_s)] *= gate_N[choice_s, None]
            gy = gout.to(dtype)
            gbefore = torch.ops.aten.gelu_backward(gy @ w2_EFD[e].to(dtype).T, before)
            _write(gw2_EFD[e], after.T, gy)
            _write(gw1_EDF[e], x_TD.index_select(0, row_s).T, gbefore)
            gx_TD.index_add_(0, placed_s, (gbefore @ w1_EDF[e].to(dtype).T)[: len(placed_s)].to(gx_TD.dtype))
            gb2_ED[e] = gy.sum(0)
            gb1_EF[e] = gbefore.sum(0)
        return None, None, gx_TD.to(dtype), ggate_N.view_as(gate_TK), gw1_EDF, gb1_EF, gw2_EFD, gb2_ED


def _hidden(slots: Slots, w1_EDF: Tensor, dtype: torch.dtype, keep: bool) -> Sequence[Tensor]:
    """Room for each expert's hidden rows: of all experts if they are kept, else the same for all."""
    width = w1_EDF.shape[2]
    if keep:
        return torch.split(RECYCLED.empty((sum(slots.counts), width), dtype, w1_EDF.device), slots.counts)
    room_SF = torch.empty((max(slots.counts), width), dtype=dtype, device=w1_EDF.device)
    return [room_SF[:count] for count in slots.counts]


def _write(out: Tensor, a: Tensor, b: Tensor) -> None:
    """out = a @ b, cast if `out` is of another dtype."""
    if out.dtype == a.dtype:
        torch.mm(a, b, out=out)
    else:
        out.copy_(a @ b)


def streamed_experts(
    x_TD: Tensor, gate_TK: Tensor, slots: Slots, w1_EDF: Tensor, b1_EF: Tensor, w2_EFD: Tensor, b2_ED: Tensor
) -> Tensor:
    """(T, D) in the gates' dtype: the sum over a row's placed choices of gate times expert output.

    The weights may be of a wider dtype than x: each is cast in its turn, their gradients are not. Cannot be differentiated twice.
    """
    with torch.autocast(x_TD.device.type, enabled=False):
        out: Tensor = _StreamedExperts.apply(torch.is_grad_enabled(), slots, x_TD, gate_TK, w1_EDF, b1_EF, w2_EFD, b2_ED)
    return out
