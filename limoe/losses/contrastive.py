"""Contrastive losses over all pairs of a batch: softmax (CLIP, arXiv 2103.00020, figure 3), sigmoid (SigLIP, arXiv 2303.15343).

Axes: B pairs, V embedding width, N text tokens of the batch, L longest caption.

These are the specification. They hold several B x B matrices; `limoe.losses.chunked` has the same losses in memory that grows
with B alone.

Several positives: `group_B` gives pairs of one caption one number, and then every picture of that caption is a positive of every
caption of the group. With several ranks image_BV and text_BV are the *global* batch, gathered so that gradients flow back, and
`group_B` comes from the gathered captions: a loss over each rank's own pairs would be another one, with fewer negatives.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def softmax_contrastive(image_BV: Tensor, text_BV: Tensor, scale: Tensor, group_B: Tensor | None = None) -> Tensor:
    """Mean of image-to-text and text-to-image cross entropy, in nats; at least float32 inside.

    image_BV, text_BV: normalised embeddings, row i of one belongs to row i of the other. scale: factor on the cosines, not its
    log. group_B: int64 (see the top); the target of a row is then spread evenly over its positives, and a column's likewise.
    ValueError if the shapes do not belong together. Two orthogonal pairs at scale 1 have logits [[1, 0], [0, 1]], so the loss
    is ln(1 + e^-1); if both have one caption, the target of each row is (1/2, 1/2) and the loss half a nat more:

    >>> round(softmax_contrastive(torch.eye(2), torch.eye(2), torch.tensor(1.0)).item(), 4)
    0.3133
    >>> round(softmax_contrastive(torch.eye(2), torch.eye(2), torch.tensor(1.0), torch.tensor([0, 0])).item(), 4)
    0.8133
    """
    check_shapes(image_BV, text_BV, group_B)
    with torch.autocast(image_BV.device.type, enabled=False):
        logits_BB = scale * wide(image_BV) @ wide(text_BV).T
        target = torch.arange(len(logits_BB), device=logits_BB.device)
        if group_B is not None:
            positive_BB = (group_B[:, None] == group_B).to(logits_BB.dtype)
            target = positive_BB / positive_BB.sum(1, keepdim=True)
        return (F.cross_entropy(logits_BB, target) + F.cross_entropy(logits_BB.T, target)) / 2


def sigmoid_contrastive(image_BV: Tensor, text_BV: Tensor, scale: Tensor, bias: Tensor, group_B: Tensor | None = None) -> Tensor:
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
    check_shapes(image_BV, text_BV, group_B)
    with torch.autocast(image_BV.device.type, enabled=False):
        logits_BB = scale * wide(image_BV) @ wide(text_BV).T + bias
        group_B = torch.arange(len(logits_BB), device=logits_BB.device) if group_B is None else group_B
        sign_BB = torch.where(group_B[:, None] == group_B, 1.0, -1.0).to(logits_BB.dtype)
        return -F.logsigmoid(sign_BB * logits_BB).sum() / len(logits_BB)


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


def check_shapes(image_BV: Tensor, text_BV: Tensor, group_B: Tensor | None) -> None:
    """ValueError unless there is a text and, where groups are given, a group for each picture."""
    if image_BV.ndim != 2 or image_BV.shape != text_BV.shape or len(image_BV) == 0:
        raise ValueError(
            f"images {tuple(image_BV.shape)} and texts {tuple(text_BV.shape)} must both be (pairs, width), with at least one pair"
        )
    if group_B is not None and group_B.shape != image_BV.shape[:1]:
        raise ValueError(f"groups {tuple(group_B.shape)} must be one number for each of the {len(image_BV)} pairs")
