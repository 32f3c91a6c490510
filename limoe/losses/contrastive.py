"""The contrastive loss of CLIP (arXiv 2103.00020, figure 3): cross entropy both ways over all pairs of the batch.

Axes: B pairs, V embedding width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def softmax_contrastive(image_BV: Tensor, text_BV: Tensor, scale: Tensor) -> Tensor:
    """Mean of image-to-text and text-to-image cross entropy, in nats; float32 inside.

    image_BV, text_BV: normalised embeddings, row i of one belongs to row i of the other. scale: factor on the cosines, not its
    log. Two orthogonal pairs at scale 1 have logits [[1, 0], [0, 1]], so the loss is ln(1 + e^-1):

    >>> round(softmax_contrastive(torch.eye(2), torch.eye(2), torch.tensor(1.0)).item(), 4)
    0.3133
    """
    with torch.autocast(image_BV.device.type, enabled=False):
        logits_BB = scale * image_BV @ text_BV.T
        target_B = torch.arange(len(logits_BB), device=logits_BB.device)
        return (F.cross_entropy(logits_BB, target_B) + F.cross_entropy(logits_BB.T, target_B)) / 2
