"""The experts' MLPs one after the other, with as little memory traffic as the arithmetic allows.

Axes: S placed choices sorted by expert, E experts, D width, F hidden width.

Where the experts' weights do not fit into the cache, moving them is what costs: E = 32 at width 768 has 600 MB of them. Left to
autograd, a loop casts all of them before the first product, keeps each expert's gradient by itself, and stacks and casts them at
the end. Here a weight is cast when its expert's turn comes, and a gradient is written where it stays.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class _StreamedExperts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, keep: bool, x_SD: Tensor, counts_E: Tensor, w1_EDF: Tensor, b1_EF: Tensor, w2_EFD: Tensor, b2_ED: Tensor
    ) -> Tensor:
        ctx.counts, dtype = counts_E.tolist(), x_SD.dtype
        y_SD, kept = torch.empty_like(x_SD), []
        for e, (x, y) in enumerate(zip(*(torch.split(t, ctx.counts) for t in (x_SD, y_SD)), strict=True)):
            before = torch.addmm(b1_EF[e].to(dtype), x, w1_EDF[e].to(dtype))
            after = F.gelu(before)
            torch.addmm(b2_ED[e].to(dtype), after, w2_EFD[e].to(dtype), out=y)
            kept += [before, after] if keep else []
        ctx.save_for_backward(x_SD, w1_EDF, b1_EF, w2_EFD, b2_ED, *kept)
        return y_SD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x_SD, w1_EDF, b1_EF, w2_EFD, b2_ED, *kept = ctx.saved_tensors
        gw1_EDF, gb1_EF, gw2_EFD, gb2_ED = (torch.empty_like(weight) for weight in (w1_EDF, b1_EF, w2_EFD, b2_ED))
        gx_SD, dtype = torch.empty_like(x_SD), x_SD.dtype
        rows = zip(*(torch.split(t, ctx.counts) for t in (x_SD, grads[0], gx_SD)), kept[::2], kept[1::2], strict=True)
        for e, (x, gy, gx, before, after) in enumerate(rows):
            gbefore = torch.ops.aten.gelu_backward(gy @ w2_EFD[e].to(dtype).T, before)
            _write(gw2_EFD[e], after.T, gy)
            _write(gw1_EDF[e], x.T, gbefore)
            torch.mm(gbefore, w1_EDF[e].to(dtype).T, out=gx)
            gb2_ED[e] = gy.sum(0)
            gb1_EF[e] = gbefore.sum(0)
        return None, gx_SD, None, gw1_EDF, gb1_EF, gw2_EFD, gb2_ED


def _write(out: Tensor, a: Tensor, b: Tensor) -> None:
    """out = a @ b, cast if `out` is of another dtype."""
    if out.dtype == a.dtype:
        torch.mm(a, b, out=out)
    else:
        out.copy_(a @ b)


def streamed_experts(x_SD: Tensor, counts_E: Tensor, w1_EDF: Tensor, b1_EF: Tensor, w2_EFD: Tensor, b2_ED: Tensor) -> Tensor:
    """(S, D) -> (S, D) in the dtype of x. The weights may be of a wider dtype: each is cast in its turn, their gradients are not.

    counts_E: int64, choices of each expert, in the order of the rows of x. Cannot be differentiated twice.
    """
    with torch.autocast(x_SD.device.type, enabled=False):
        out: Tensor = _StreamedExperts.apply(torch.is_grad_enabled(), x_SD, counts_E, w1_EDF, b1_EF, w2_EFD, b2_ED)
    return out
