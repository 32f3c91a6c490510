"""Adafactor as V-MoE was trained with it (Big Vision's variant, arXiv 2106.04560): Adam's step, with the mean square of a
matrix's gradient held as one number a row and one a column, and the mean step in bfloat16.

Axes: R rows, C columns of a matrix. Axes before them, such as the experts', count matrices: nothing is shared between those.

    beta  = min(beta2, 1 - t^-0.8)                          at step t, from 1
    row_R = beta row_R + (1 - beta) mean_C(g^2 + eps),      col_C likewise, over the rows
    u_RC  = g_RC / sqrt(row_R col_C / mean_R(row_R))
    m_RC  = beta1 m_RC + (1 - beta1) u_RC
    w_RC  = w_RC - lr (m_RC + weight_decay w_RC)

torch.optim.Adafactor factors the same axes, but makes a step relative to the RMS of the weights and clips it by its own RMS, both
over a whole stack: there an expert's step depends on the other experts, a bias that starts at 0 hardly moves, and every tensor
waits for the device. Here `lr` means what it means to AdamW.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from limoe.train.uncompiled import Uncompiled

POWER = 0.8  # with which the mean over squares grows longer
EPS = 1e-30
SMALLEST = 32  # rows and columns of a matrix that is worth factoring; V-MoE and Big Vision have it too


class Adafactor(Uncompiled):
    """Options of a group: lr; weight_decay; betas, of the step's mean and, at most, of the squares'; factored, whether the
    squares of its matrices are (those with fewer than SMALLEST rows or columns never are).

    found_inf: float scalar on the device, 1 where the step is to be left out (limoe.train.optim.Optimizers); None for never.
    """

    _step_supports_amp_scaling = True
    found_inf: Tensor | None = None

    def __init__(self, params: list[dict[str, Any]], lr: float, betas: tuple[float, float]) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": 0.0, "factored": True})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # nothing here evaluates a loss again
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, **{name: group[name] for name in self.defaults})

    def _move(self, weight: Tensor, lr: float, betas: tuple[float, float], weight_decay: float, factored: bool) -> None:
        assert weight.grad is not None
        state = self.state[weight]
        if not state:
            state |= _start(weight, factored)
        taken = torch.ones_like(state["step"]) if self.found_inf is None else 1 - self.found_inf.to(weight.dtype)
        share = (state["step"] + 1).pow(-POWER).clamp(min=1 - betas[1])
        scaled = _scaled(torch.where(taken > 0, weight.grad, 0), state, taken * share)
        mean = state["mean"].to(scaled.dtype).lerp_(scaled, taken * (1 - betas[0]))
        state["mean"].copy_(mean)
        state["step"].add_(taken)
        weight.mul_(1 - taken * (lr * weight_decay)).sub_(mean * (taken * lr))


def _start(weight: Tensor, factored: bool) -> dict[str, Tensor]:
    """The squares start at 1, of which the first step leaves nothing."""
    state = {"step": weight.new_zeros(()), "mean": torch.zeros_like(weight, dtype=torch.bfloat16)}
    if factored and weight.ndim >= 2 and min(weight.shape[-2:]) >= SMALLEST:
        return state | {"row": torch.ones_like(weight[..., 0]), "column": torch.ones_like(weight[..., 0, :])}
    return state | {"square": torch.ones_like(weight)}


def _scaled(gradient: Tensor, state: dict[str, Tensor], share: Tensor) -> Tensor:
    """The gradient over the root of its mean square, into which this one enters with `share`."""
    square = gradient.square().add_(EPS)
    if "square" in state:
        return gradient * state["square"].lerp_(square, share).rsqrt()
    row, column = state["row"].lerp_(square.mean(-1), share), state["column"].lerp_(square.mean(-2), share)
    return gradient * (row / row.mean(-1, keepdim=True)).rsqrt()[..., None] * column.rsqrt()[..., None, :]
