"""The contrastive losses of `limoe.losses.contrastive`, equal in value and gradient, in memory of a chunk of rows at a time.

Axes: B pairs, O own pairs (those of this rank), V embedding width, R rows of a chunk, C rows of the largest chunk.

Both losses are a part that all combinations enter alike, minus a part linear in the logits of the positives:

    softmax   mean_i (logsumexp of row i + logsumexp of column i) / 2  -  mean_i mean_{j positive of i} logit_ij
    sigmoid   1/B sum_ij softplus(logit_ij)                            -  1/B sum_{ij positive} logit_ij

(-log sigmoid(x) = softplus(x) - x). The second part is a product of each picture with the mean or sum of its positives' texts:
no mask and no matrix. The first is computed chunk by chunk, and again for the gradient, instead of being kept: four products of
B x B x V in place of three, and at most two chunks of (C, B) at any time.

With several ranks the same two passes serve: a rank's rows are its own pictures, against the gathered texts; the columns' maxima
and sums are reduced over ranks between the passes, and the texts' gradients after them. So each rank must differentiate its share
with the same weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from limoe.losses.contrastive import check_shapes, wide
from limoe.world import ALONE, World

Slope = Callable[[slice, Tensor, Tensor], Tensor]  # (rows, logits_RB, work_RB) -> derivative to each logit; may overwrite both
EXACT = 50.0  # above it softplus(x) is x to the last bit, in float64 too; torch's own bound of 20 is not


def softmax_chunked(
    image_OV: Tensor, text_OV: Tensor, scale: Tensor, chunk: int, group_B: Tensor | None = None, world: World = ALONE
) -> Tensor:
    """`softmax_contrastive`, holding `chunk` rows of the similarity matrix; group_B: numbers from 0 to B - 1.

    >>> round(softmax_chunked(torch.eye(2), torch.eye(2), torch.tensor(1.0), 1).item(), 4)
    0.3133
    """
    _check(image_OV, text_OV, chunk, group_B, world)
    image_OV, text_BV = wide(image_OV), world.gather(wide(text_OV))
    with torch.autocast(image_OV.device.type, enabled=False):
        spread: Tensor = _Spread.apply(image_OV, text_BV, scale, chunk, world)
        positive_OV, count_O = _positives(text_BV, group_B, world.rows(len(image_OV)))
        return spread - scale * ((image_OV * positive_OV).sum(1) / count_O).mean() / world.size


def sigmoid_chunked(
    image_OV: Tensor,
    text_OV: Tensor,
    scale: Tensor,
    bias: Tensor,
    chunk: int,
    group_B: Tensor | None = None,
    world: World = ALONE,
) -> Tensor:
    """`sigmoid_contrastive`, holding `chunk` rows of the similarity matrix; group_B: numbers from 0 to B - 1.

    >>> round(sigmoid_chunked(torch.eye(2), torch.eye(2), torch.tensor(1.0), torch.tensor(0.0), 1).item(), 4)
    1.0064
    """
    _check(image_OV, text_OV, chunk, group_B, world)
    image_OV, text_BV = wide(image_OV), world.gather(wide(text_OV))
    with torch.autocast(image_OV.device.type, enabled=False):
        negative: Tensor = _AsNegatives.apply(image_OV, text_BV, scale, bias, chunk)
        positive_OV, count_O = _positives(text_BV, group_B, world.rows(len(image_OV)))
        return negative - (scale * (image_OV * positive_OV).sum(1) + bias * count_O).mean() / world.size


class _Spread(torch.autograd.Function):
    """This rank's share of mean_i (logsumexp of row i + logsumexp of column i) / 2. Maximum and sum are kept apart: their log
    would round both."""

    @staticmethod
    def forward(ctx: Any, image_OV: Tensor, text_BV: Tensor, scale: Tensor, chunk: int, world: World) -> Tensor:
        row_top_O, row_sum_O = image_OV.new_empty(len(image_OV)), image_OV.new_empty(len(image_OV))
        column_top_B, column_sum_B = image_OV.new_full((len(text_BV),), -torch.inf), image_OV.new_zeros(len(text_BV))
        for rows, logits_RB, work_RB in _chunks(image_OV, text_BV, scale, chunk):
            row_top_O[rows] = logits_RB.amax(1)
            torch.sub(logits_RB, row_top_O[rows, None], out=work_RB)
            row_sum_O[rows] = work_RB.exp_().sum(1)
            top_B = torch.maximum(column_top_B, logits_RB.amax(0))
            column_sum_B = column_sum_B * (column_top_B - top_B).exp() + logits_RB.sub_(top_B).exp_().sum(0)
            column_top_B = top_B
        top_B = column_top_B.clone()
        world.max_(top_B)
        column_sum_B *= (column_top_B - top_B).exp()
        world.sum_([column_sum_B])
        ctx.chunk, own = chunk, world.rows(len(image_OV))
        ctx.save_for_backward(image_OV, text_BV, scale, row_top_O, row_sum_O, top_B, column_sum_B)
        spread_O = row_top_O + row_sum_O.log() + top_B[own] + column_sum_B[own].log()
        return spread_O.mean() / (2 * world.size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        image_OV, text_BV, scale, row_top_O, row_sum_O, column_top_B, column_sum_B = ctx.saved_tensors
        share = grad / (2 * len(text_BV))
        row_weight_O, column_weight_B = share / row_sum_O, share / column_sum_B

        def slope(rows: slice, logits_RB: Tensor, work_RB: Tensor) -> Tensor:
            """The softmax over the row plus that over the column."""
            torch.sub(logits_RB, row_top_O[rows, None], out=work_RB)
            work_RB.exp_().mul_(row_weight_O[rows, None])
            return work_RB.addcmul_(logits_RB.sub_(column_top_B).exp_(), column_weight_B)

        image, text, scale_grad, _ = _gradients(image_OV, text_BV, scale, ctx.chunk, slope)
        return image, text, scale_grad, None, None


class _AsNegatives(torch.autograd.Function):
    """This rank's share of 1/B sum_ij softplus(logit_ij): the sigmoid loss as if there were no positives."""

    @staticmethod
    def forward(ctx: Any, image_OV: Tensor, text_BV: Tensor, scale: Tensor, bias: Tensor, chunk: int) -> Tensor:
        row_O = image_OV.new_empty(len(image_OV))
        for rows, logits_RB, _ in _chunks(image_OV, text_BV, scale, chunk):
            row_O[rows] = F.softplus(logits_RB.add_(bias), threshold=EXACT).sum(1)
        ctx.chunk = chunk
        ctx.save_for_backward(image_OV, text_BV, scale, bias)
        return row_O.mean() * (len(image_OV) / len(text_BV))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        image_OV, text_BV, scale, bias = ctx.saved_tensors
        share = grad / len(text_BV)

        def slope(rows: slice, logits_RB: Tensor, work_RB: Tensor) -> Tensor:  # noqa: ARG001 (the signature of Slope)
            return logits_RB.add_(bias).sigmoid_().mul_(share)

        return *_gradients(image_OV, text_BV, scale, ctx.chunk, slope), None


def _chunks(image_OV: Tensor, text_BV: Tensor, scale: Tensor, chunk: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """(rows, logits_RB without bias, work_RB) for each chunk; both tensors are the caller's until the next one."""
    logits_CB, work_CB = image_OV.new_empty(2, min(chunk, len(image_OV)), len(text_BV))
    for start in range(0, len(image_OV), chunk):
        rows = slice(start, min(start + chunk, len(image_OV)))
        count = rows.stop - start
        yield rows, torch.mm(image_OV[rows] * scale, text_BV.T, out=logits_CB[:count]), work_CB[:count]


def _gradients(
    image_OV: Tensor, text_BV: Tensor, scale: Tensor, chunk: int, slope: Slope
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients to images, texts, scale and a bias on every logit (a scalar), of a loss with this slope."""
    with torch.autocast(image_OV.device.type, enabled=False):
        pull_OV, text_grad_BV = torch.empty_like(image_OV), torch.zeros_like(text_BV)  # before scaling
        bias_grad = torch.zeros_like(scale)
        for rows, logits_RB, work_RB in _chunks(image_OV, text_BV, scale, chunk):
            slope_RB = slope(rows, logits_RB, work_RB)
            torch.mm(slope_RB, text_BV, out=pull_OV[rows])
            text_grad_BV.addmm_(slope_RB.T, image_OV[rows])
            bias_grad += slope_RB.sum()
        scale_grad = (image_OV * pull_OV).sum()  # sum over pairs of slope * cosine
        return pull_OV.mul_(scale), text_grad_BV.mul_(scale), scale_grad, bias_grad


def _positives(text_BV: Tensor, group_B: Tensor | None, own: slice) -> tuple[Tensor, Tensor]:
    """(the sum of each own pair's positive texts (O, V), their number (O,) in the texts' dtype)."""
    if group_B is None:
        return text_BV[own], text_BV.new_ones(own.stop - own.start)
    sums_BV = torch.zeros_like(text_BV).index_add(0, group_B, text_BV)
    counts_B = text_BV.new_zeros(len(text_BV)).index_add(0, group_B, text_BV.new_ones(len(text_BV)))
    return sums_BV.index_select(0, group_B[own]), counts_B[group_B[own]]


def _check(image_OV: Tensor, text_OV: Tensor, chunk: int, group_B: Tensor | None, world: World) -> None:
    check_shapes(image_OV, text_OV, group_B, world)
    if chunk < 1:
        raise ValueError(f"chunk = {chunk}: a chunk is a whole number of rows, at least 1")
