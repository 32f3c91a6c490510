"""Forward FLOPs and parameters, in closed form: one function, checked against torch's counter on the plain kernels.

A multiply-add is two FLOPs. Only matrix products count (norms, softmax and GELU are below 2% at our sizes); the mean over
captions is taken over `lengths`, since attention grows with their square. Dropped tokens are not subtracted: the budget counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from torch import nn

from limoe.config import MoeParams, TowerParams
from limoe.model.experts import Experts
from limoe.placement import moe_layers


def transformer_flops(tokens: int, width: int, hidden: int, depth: int) -> int:
    """Of one sequence through `depth` dense blocks: projections 8 L D^2, attention 4 L^2 D, MLP 4 L D F each."""
    return depth * (8 * tokens * width**2 + 4 * tokens**2 * width + 4 * tokens * width * hidden)


def tower_flops(tower: TowerParams, lengths: Sequence[int], moe: MoeParams | None = None) -> float:
    """Mean forward FLOPs a pair of the one-tower model, over captions of these lengths (tokens).

    A sparse block costs K MLPs and the router; with K = 1 that is the dense tower plus 2 D E a token. K is the mean where experts
    choose their tokens. ValueError if `moe.blocks` names blocks that the tower lacks.
    """
    sparse = len(moe_layers(tower.depth, moe.blocks)) if moe else 0
    k, experts = (moe.k, moe.experts) if moe else (1, 0)

    def sequence(tokens: int) -> int:
        dense = transformer_flops(tokens, tower.width, tower.hidden, tower.depth)
        extra = 4 * tower.width * tower.hidden * (k - 1) + 2 * tower.width * experts
        return dense + sparse * tokens * extra + 2 * tower.width * tower.embed_dim

    patches = 2 * tower.image_tokens * 3 * tower.patch_size**2 * tower.width
    return patches + sequence(tower.image_tokens) + fmean(sequence(length) for length in lengths)


def clip_flops(tower: TowerParams, text_width: int, text_depth: int) -> int:
    """Forward FLOPs a pair of open_clip's CLIP: an image tower with a class token, and a text tower over the padded context."""
    image = transformer_flops(tower.image_tokens + 1, tower.width, tower.hidden, tower.depth)
    patches = 2 * tower.image_tokens * 3 * tower.patch_size**2 * tower.width
    hidden = int(text_width * tower.mlp_ratio)
    text = transformer_flops(tower.text_length, text_width, hidden, text_depth)
    return patches + image + text + 2 * tower.width * tower.embed_dim + 2 * text_width * tower.embed_dim


def total_parameters(model: nn.Module) -> int:
    """All trainable numbers."""
    return sum(parameter.numel() for parameter in model.parameters())


def active_parameters(model: nn.Module, k: int) -> int:
    """What one token uses: all but the E - K experts of each sparse layer that it does not visit."""
    idle = 0
    for module in model.modules():
        if isinstance(module, Experts):
            experts = len(module.w1_EDF)
            idle += sum(parameter.numel() for parameter in module.parameters()) * (experts - k) // experts
    return total_parameters(model) - idle
