"""Moving rows of a tensor without scatter-adds.

Axes: R rows in, S rows out, K places that a row goes to, D width.

Every move of tokens in the tower (padding captions for attention, sending tokens to experts, bringing them back) sends each row
to known places. The gradient is then a gather as well, by the inverse: on two CPU cores 0.2 ms for 11,000 rows of 128 channels,
against 11 ms for the deterministic `index_add` that autograd would use (LOG.md, 2026-11-24).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def _take(x_RD: Tensor, index_S: Tensor) -> Tensor:
    """Rows of `x_RD` by `index_S`, where index R is a row of zeros."""
    zero_1D = x_RD.new_zeros(1, x_RD.shape[1])
    return torch.cat([x_RD, zero_1D]).index_select(0, index_S)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_RD: Tensor, index_S: Tensor, inverse_RK: Tensor) -> Tensor:
        ctx.save_for_backward(inverse_RK)
        return _take(x_RD, index_S)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (inverse_RK,) = ctx.saved_tensors
        rows, places = inverse_RK.shape
        taken_RKD = _take(grads[0], inverse_RK.flatten()).view(rows, places, -1)
        return (taken_RKD[:, 0] if places == 1 else taken_RKD.sum(1)), None, None


def gather_rows(x_RD: Tensor, index_S: Tensor, inverse_RK: Tensor) -> Tensor:
    """`x_RD[index_S]`, with index R giving zeros; `inverse_RK` names the places in S that each row went to (S for none).

    index_S and inverse_RK are int64. The caller vouches that they are each other's inverse: the gradient relies on it.
    """
    out: Tensor = _GatherRows.apply(x_RD, index_S, inverse_RK)
    return out
