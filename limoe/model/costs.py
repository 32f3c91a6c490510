"""What training costs apart from any measurement: memory in closed form, FLOPs and days of a whole training.

D width, F hidden width, H heads, L tokens of a sequence, E experts, K choices a token, P patches an image, V embedding width.

The memory is what must be held when a backward pass begins, on one device that holds the whole model and `batch` pairs:
- weights, their gradients and AdamW's two moments, all in float32; with bfloat16 also the copies of the matrices that products
  read, which autograd keeps;
- activations: every tensor that autograd saves, without activation checkpointing. With bfloat16 the tower runs under autocast:
  residual stream, norms and router stay float32, what enters and leaves matrix products is bfloat16.
Not counted: the similarity matrix of the contrastive loss (a chunk of it at a time), temporary tensors of single operations, the
allocator's slack, data, the rows that a kernel adds to round an expert's number up. Each expert's tokens are counted as placed,
the worst case. `tests/model/test_costs.py` compares the activations with what autograd really saves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import nn

from limoe.config import MoeParams, TowerParams
from limoe.errors import UserError
from limoe.model.flops import total_parameters
from limoe.placement import moe_layers

Precision = Literal["float32", "bfloat16"]
FLOAT32_BYTES = 4
NORM_STATISTICS_BYTES = 2 * FLOAT32_BYTES  # mean and inverse deviation of a row
CHOICE_BYTES = 2 * 8 + FLOAT32_BYTES + 1  # a choice's slot (twice), gate, and whether it was placed
ROW_INDEX_BYTES = 8  # which choice lies in an expert's row
ROUTER_TENSORS = 5  # of a float32 an expert: clean and noisy softmax; the losses keep logits, probabilities and chances
TRAINING_PER_FORWARD = 3  # the backward pass costs two forward passes: gradients of inputs and of weights
NEVER_CAST = ("token", "image_position", "text_position", "router", "patch", "b1_EF", "b2_ED")  # no backward pass reads them
CAST_IN_TURN = ("w1_EDF", "w2_EFD")  # by the streamed kernel, which keeps no copy
SECONDS_PER_DAY = 86_400


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes on one device, see the module's top. moments: AdamW's two. copies: the weights' bfloat16 copies."""

    weights: int
    gradients: int
    moments: int
    copies: int
    activations: int

    @property
    def total(self) -> int:
        """All of it, bytes."""
        return self.weights + self.gradients + self.moments + self.copies + self.activations


@dataclass(frozen=True)
class TrainingCost:
    """flops: of the whole training, without recomputation. days: of wall time."""

    flops: float
    days: float


def attention_bytes(tower: TowerParams, tokens: int, size: int, fused: bool) -> int:
    """Of one token in a sequence of `tokens`, between qkv and the output projection; `size`: bytes of a number there.

    A fused kernel keeps q, k, v, its output and a float32 a head; the product written out keeps H rows of L probabilities.
    """
    qkv = 3 * tower.width * size
    kept = tower.width * size + tower.heads * FLOAT32_BYTES if fused else tower.heads * tokens * size
    return qkv + kept


def mlp_bytes(tower: TowerParams, moe: MoeParams | None, size: int) -> float:
    """Of one token in a dense MLP (its input, the hidden layer before and after GELU), or in a router and K experts.

    Expert choice and the kernel of capacity slots fill K cf rows a token, the others at most K; `auto` counts as one of those.
    """
    if moe is None:
        return (tower.width + 2 * tower.hidden) * size
    rows = moe.k * (moe.capacity_factor if moe.kernel == "slots" or moe.router == "expert-choice" else 1)
    router = FLOAT32_BYTES * (tower.width + ROUTER_TENSORS * moe.experts) + CHOICE_BYTES * moe.k
    if moe.kernel == "streamed":  # an expert's input is taken from the stream twice: in float32 that is the router's input
        return router + rows * (tower.width + 2 * tower.hidden) * size + (0 if size == FLOAT32_BYTES else tower.width * size)
    return router + rows * (2 * (tower.width + tower.hidden) * size + ROW_INDEX_BYTES)


def activation_bytes(tower: TowerParams, moe: MoeParams | None, caption: int, precision: Precision, fused: bool) -> float:
    """Bytes that autograd keeps for one pair with a caption of `caption` tokens, auxiliary losses included.

    moe: None for the dense tower. fused: whether attention runs in one kernel (GPU) or is written out (CPU, model/attention.py).
    """
    size = FLOAT32_BYTES if precision == "float32" else 2
    sparse = len(moe_layers(tower.depth, moe.blocks)) if moe else 0
    mlps = (tower.depth - sparse) * mlp_bytes(tower, None, size) + (sparse * mlp_bytes(tower, moe, size) if moe else 0)
    norm = FLOAT32_BYTES * tower.width + NORM_STATISTICS_BYTES
    projections = 2 * tower.width * size  # inputs of qkv and of the output projection

    def sequence(tokens: int) -> float:
        block = 2 * norm + projections + attention_bytes(tower, tokens, size, fused)
        pooled = tower.width * size + tower.embed_dim * FLOAT32_BYTES
        return tokens * (tower.depth * block + mlps + norm) + pooled

    patches = tower.image_tokens * 3 * tower.patch_size**2 * size
    return patches + sequence(tower.image_tokens) + sequence(caption)


def training_memory(
    model: nn.Module,
    tower: TowerParams,
    moe: MoeParams | None,
    batch: int,
    caption: int,
    precision: Precision = "bfloat16",
    fused: bool = True,
) -> TrainingMemory:
    """Memory of a training step of `batch` pairs with captions of `caption` tokens; `model` may lie on the meta device."""
    numbers = total_parameters(model)
    without = NEVER_CAST + (CAST_IN_TURN if moe is not None and moe.kernel == "streamed" else ())
    cast = sum(p.numel() for name, p in model.named_parameters() if p.ndim > 1 and not any(part in name for part in without))
    return TrainingMemory(
        weights=FLOAT32_BYTES * numbers,
        gradients=FLOAT32_BYTES * numbers,
        moments=2 * FLOAT32_BYTES * numbers,
        copies=2 * cast if precision == "bfloat16" else 0,
        activations=round(batch * activation_bytes(tower, moe, caption, precision, fused)),
    )


def training_cost(forward_flops: float, samples: float, gpus: int, mfu: float, peak_tflops: float) -> TrainingCost:
    """Of `samples` pairs on `gpus` devices that reach the share `mfu` of `peak_tflops` each; UserError if one is out of range.

    A pair that costs 1 TFLOP forward costs 3 to train on; 86,400 such pairs take a device of 3 TFLOP/s, fully used, one day:

    >>> training_cost(1e12, 86_400, gpus=1, mfu=1.0, peak_tflops=3.0)
    TrainingCost(flops=2.592e+17, days=1.0)
    """
    wrong = {"samples": not 0 < samples < math.inf, "gpus": gpus < 1, "tflops": not 0 < peak_tflops < math.inf}
    if name := next((name for name, bad in wrong.items() if bad), None):
        raise UserError(f"--{name} must be a number above 0")
    if not 0 < mfu <= 1:
        raise UserError(f"--mfu {mfu:g}: must be above 0 and at most 1, the share of the peak that the training reaches")
    flops = TRAINING_PER_FORWARD * forward_flops * samples
    return TrainingCost(flops, flops / (gpus * mfu * peak_tflops * 1e12) / SECONDS_PER_DAY)
