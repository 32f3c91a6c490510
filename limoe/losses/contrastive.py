"""Contrastive losses over all pairs of a batch: softmax (CLIP, arXiv 2103.00020, figure 3), sigmoid (SigLIP, arXiv 2303.15343).

Axes: B pairs, O own pairs (those of this rank), V embedding width, N text tokens of the batch, L longest caption.

These are the specification. They hold several B x B matrices; `limoe.losses.chunked` has the same losses in memory that grows
with B alone.

Several positives: `group_B` gives pairs of one caption one number, and then every picture of that caption is a positive of every
caption of the group.

Several ranks: a rank has the rows of its own pairs, in both directions, against the gathered embeddings of all of them (a loss
over its own pairs alone would be another one, with fewer negatives). It gets its share: the sum over the ranks is the loss, and
the sum of the ranks' gradients is the gradient, as what was gathered sends its gradients back to where it came from.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from limoe.world import ALONE, World


def softmax_contrastive(
    image_OV: Tensor, text_OV: Tensor, scale: Tensor, group_B: Tensor | None = None, world: World = ALONE
) -> Tensor:
    """Mean of image-to-text and text-to-image cross entropy, in nats; at least float32 inside.

    image_OV, text_OV: normalised embeddings, row i of one belongs to row i of the other. scale: factor on the cosines, not its
    log. group_B: int64 (see the top); the target of a row is then spread evenly over its positives, and a column's likewise.
    world: whose other ranks have equally many pairs. ValueError if the shapes do not belong together. Two orthogonal pairs at
    scale 1 have logits [[1, 0], [0, 1]], so the loss is ln(1 + e^-1); if both have one caption, the target of each row is
    (1/2, 1/2) and the loss half a nat more:

    >>> round(softmax_contrastive(torch.eye(2), torch.eye(2), torch.tensor(1.0)).item(), 4)
    0.3133
    >>> round(softmax_contrastive(torch.eye(2), torch.eye(2), torch.tensor(1.0), torch.tensor([0, 0])).item(), 4)
    0.8133
    """
    check_shapes(image_OV, text_OV, group_B, world)
    with torch.autocast(image_OV.device.type, enabled=False):
        image_OV, text_OV = wide(image_OV), wide(text_OV)
        row_OB = scale * image_OV @ world.gather(text_OV).T
        column_OB = row_OB.T if world.size == 1 else scale * text_OV @ world.gather(image_OV).T
        own = world.rows(len(row_OB))
        target = torch.arange(own.start, own.stop, device=row_OB.device)
        if group_B is not None:
            positive_OB = (group_B[own, None] == group_B).to(row_OB.dtype)
            target = positive_OB / positive_OB.sum(1, keepdim=True)
        return (F.cross_entropy(row_OB, target) + F.cross_entropy(column_OB, target)) / (2 * world.size)


def sigmoid_contrastive(
    image_OV: Tensor, text_OV: Tensor, scale: Tensor, bias: Tensor, group_B: Tensor | None = None, world: World = ALONE
) -> Tensor:
    """-1/B sum_ij log sigmoid(z_ij (scale * cosine_ij + bias)), z = 1 for positives and -1 for the rest; at least float32 inside.

    Arguments as for `softmax_contrastive`; bias: added to every logit, starts low because most combinations are negatives. Each
    of the B^2 combinations is a yes or no of its own, summed over a row and averaged over rows. Two orthogonal pairs at scale 1
    and bias 0 have logits 1 and 0: a row costs ln(1 + e^-1) for its positive and ln 2 for its negative. With bias -1 and one
    caption for both the logits are 0 and -1, all of them positives: ln 2 and ln(1 + e).

    >>> eye, one = torch.eye(2), torch.tensor(1.0)
    >>> round(sigmoid_contrastive(eye, eye, one, torch.tensor(0.0)).item(), 4)
    1.0064
    >>> round(sigmoid_contrastive(eye, eye, one, torch.tensor(-1.0), torch.tensor([0, 0])).item(), 4)
    2.0064
    """
    check_shapes(image_OV, text_OV, group_B, world)
    with torch.autocast(image_OV.device.type, enabled=False):
        logits_OB = scale * wide(image_OV) @ world.gather(wide(text_OV)).T + bias
        own, pairs = world.rows(len(logits_OB)), logits_OB.shape[1]
        group_B = torch.arange(pairs, device=logits_OB.device) if group_B is None else group_B
        sign_OB = torch.where(group_B[own, None] == group_B, 1.0, -1.0).to(logits_OB.dtype)
        return -F.logsigmoid(sign_OB * logits_OB).sum() / pairs


def equal_captions(ids_N: Tensor, lengths_B: Tensor) -> Tensor:
    """int64 (B,): pairs whose captions have the same token ids get the same number, from 0 to B - 1.

    ids_N: int64, all captions' ids (below 2^31) in one run; lengths_B: int64, on the CPU, how many each has (at least 1). Sorted
    ids are numbered column by column, which waits for no device (`unique` would). Captions 7 8, 7 and 7 8:

    >>> equal_captions(torch.tensor([7, 8, 7, 7, 8]), torch.tensor([2, 1, 2]))
    tensor([1, 0, 1])
    """
    longest = int(lengths_B.max())
    mask_BL = torch.arange(longest, device=ids_N.device) < lengths_B.to(ids_N.device, non_blocking=True)[:, None]
    ids_BL = torch.full(mask_BL.shape, -1, device=ids_N.device).masked_scatter(mask_BL, ids_N)
    group_B = torch.zeros_like(ids_BL[:, 0])
    for ids_B in ids_BL.unbind(1):
        key_B, order_B = ((group_B << 32) + ids_B).sort()
        number_B = F.pad(key_B.diff() != 0, (1, 0)).cumsum(0)
        group_B = torch.empty_like(group_B).scatter(0, order_B, number_B)
    return group_B


def wide(x: Tensor) -> Tensor:
    """At least float32: half precisions are widened, float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def check_shapes(image_OV: Tensor, text_OV: Tensor, group_B: Tensor | None, world: World) -> None:
    """ValueError unless there is a text and, where groups are given, a group for each picture of all ranks."""
    if image_OV.ndim != 2 or image_OV.shape != text_OV.shape or len(image_OV) == 0:
        raise ValueError(
            f"images {tuple(image_OV.shape)} and texts {tuple(text_OV.shape)} must both be (pairs, width), with at least one pair"
        )
    pairs = len(image_OV) * world.size
    if group_B is not None and group_B.shape != (pairs,):
        raise ValueError(f"groups {tuple(group_B.shape)} must be one number for each of the {pairs} pairs")
