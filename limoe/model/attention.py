"""Self-attention over the flat token stream: projections see both modalities at once, attention each sequence alone.

Axes: T rows of the stream, B sequences, L their length, D width, H heads, C channels a head, P patches an image.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limoe.model.tokens import Layout


def attend(qkv_BLD: Tensor, heads: int, mask_BL: Tensor | None) -> Tensor:
    """Multi-head attention without mask between positions: (B, L, 3 D) -> (B, L, D). mask_BL is True on real tokens.

    On CPU the product is written out: the fused kernel's backward pass takes ten times as long in bf16 at our sizes (LOG.md).
    """
    batch, length, triple = qkv_BLD.shape
    q_BHLC, k_BHLC, v_BHLC = qkv_BLD.view(batch, length, 3, heads, triple // 3 // heads).permute(2, 0, 3, 1, 4)
    allowed = None if mask_BL is None else mask_BL[:, None, None, :]
    if qkv_BLD.device.type == "cpu":
        scores_BHLL = (q_BHLC * (1 / math.sqrt(q_BHLC.shape[-1]))) @ k_BHLC.transpose(-1, -2)
        if allowed is not None:
            scores_BHLL = scores_BHLL.masked_fill(~allowed, torch.finfo(scores_BHLL.dtype).min)
        out_BHLC = scores_BHLL.softmax(-1) @ v_BHLC
    else:
        out_BHLC = F.scaled_dot_product_attention(q_BHLC, k_BHLC, v_BHLC, attn_mask=allowed)
    out_BLD: Tensor = out_BHLC.transpose(1, 2).reshape(batch, length, triple // 3)
    return out_BLD


class Attention(nn.Module):
    """Bidirectional self-attention; the two modalities share every weight and never see each other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x_TD: Tensor, layout: Layout) -> Tensor:
        """(T, D) -> (T, D); rows that are no tokens come out as the bias alone and mean nothing."""
        qkv_T3D = self.qkv(x_TD)
        image_rows, text_rows = layout.split(qkv_T3D)
        parts = []
        if layout.images:
            image_BPD = image_rows.view(layout.images, layout.patches, -1)
            parts.append(attend(image_BPD, self.heads, None).flatten(0, 1))
        if layout.text is not None:
            mixed_BLD = attend(layout.text.pad(text_rows), self.heads, layout.text.mask_BL)
            parts.append(layout.text.flatten(mixed_BLD))
        out_TD: Tensor = self.out(torch.cat(parts))
        return out_TD
