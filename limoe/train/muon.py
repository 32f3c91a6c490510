"""Muon: a matrix moves by its mean gradient made orthogonal (Jordan 2024; arXiv 2502.16982 for the size of the step).

Axes: R rows, C columns of a matrix. Axes before them, such as the experts', count matrices, which are moved all at once; on one
matrix this is torch.optim.Muon with adjust_lr_fn="match_rms_adamw", which takes no stacks.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from limoe.train.uncompiled import Uncompiled

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the polynomial that brings singular values near 1: steepest at 0
ITERATIONS = 5
EPS = 1e-7
RMS = 0.2  # of a step at lr 1, about that of AdamW: its learning rate and weight decay carry over


class Muon(Uncompiled):
    """Its parameters are matrices or stacks of them; the options of a group are lr and weight_decay.

    found_inf: float scalar on the device, 1 where the step is to be left out (limoe.train.optim.Optimizers); None for never.
    """

    _step_supports_amp_scaling = True
    found_inf: Tensor | None = None

    def __init__(self, params: list[dict[str, Any]], lr: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # nothing here evaluates a loss again
        """Move every matrix that has a gradient.

        One that is zero throughout is none: an expert that no token reached stays where it is. However little is left of
        its mean gradient, the orthogonal one has full size, and would move the expert on for hundreds of steps.
        """
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, group["lr"], group["weight_decay"])

    def _move(self, weight: Tensor, lr: float, weight_decay: float) -> None:
        assert weight.grad is not None
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        gradient = weight.grad if self.found_inf is None else torch.where(self.found_inf > 0, 0, weight.grad)
        reached = gradient.flatten(-2).any(-1)[..., None, None].to(weight.dtype)
        mean = state["momentum"].lerp_(gradient, (1 - MOMENTUM) * reached)
        direction = orthogonal(gradient.lerp(mean, MOMENTUM))
        rate = lr * RMS * math.sqrt(max(weight.shape[-2:]))
        weight.mul_(1 - lr * weight_decay * reached).sub_(rate * reached * direction)


def orthogonal(matrices: Tensor) -> Tensor:
    """bfloat16 (..., R, C): U S V^T of each matrix U D V^T, by Newton-Schulz; S has its diagonal between 0.5 and 1.5 or so."""
    a, b, c = COEFFICIENTS
    upright = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if upright else matrices).bfloat16()
    shape, x_NRC = x.shape, x.reshape(-1, *x.shape[-2:])
    x_NRC = x_NRC / x_NRC.norm(dim=(1, 2), keepdim=True).clamp(min=EPS)
    for _ in range(ITERATIONS):
        gram_NRR = x_NRC @ x_NRC.mT
        gram_NRR = torch.baddbmm(gram_NRR, gram_NRR, gram_NRR, beta=b, alpha=c)
        x_NRC = torch.baddbmm(x_NRC, gram_NRR, x_NRC, beta=a)
    x = x_NRC.view(shape)
    return x.mT if upright else x
