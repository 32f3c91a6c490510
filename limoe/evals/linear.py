"""Linear classifiers on features: ridge regression in closed form, and multinomial logistic regression.

Both standardise the features first, by the mean and standard deviation of those that they learn from, and compute in float64.

Axes: N pictures, D features, F features and the constant one, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from limoe.evals.ranking import similarity

CONSTANT = 100.0  # the ridge's constant feature: so large that the bias which it carries is hardly held down
FLOOR = 1e-5  # added to standard deviations
STEPS, GRADIENT, CHANGE, HISTORY = 1000, 1e-7, 1e-12, 20  # of L-BFGS: at most so many; where it may stop; what it remembers
UNSETTLED = 1e-4  # of its scores: where it stops they are 2e-5 from the optimum's, and classes taught alike 2e-6 apart (AVX2)


@dataclass(frozen=True)
class Linear:
    """float64: (x - mean_D) / scale_D, times weights_CD, plus bias_C."""

    mean_D: Tensor
    scale_D: Tensor
    weights_CD: Tensor
    bias_C: Tensor

    def scores(self, x_ND: Tensor) -> Tensor:
        """float64 (N, C), the largest for the class that fits best."""
        return similarity((x_ND.double() - self.mean_D) / self.scale_D, self.weights_CD) + self.bias_C


def ridge(x_ND: Tensor, target_N: Tensor, classes: int, l2: float) -> Linear:
    """Least squares on targets of 1 for the class and -1 for the others, plus l2 times the squared weights (l2 > 0).

    As in big_vision's few-shot evaluator (fewshot_lsr), the bias is the weight of a constant feature.
    """
    mean_D, scale_D = _moments(x_ND)
    z_NF = F.pad((x_ND.double() - mean_D) / scale_D, (0, 1), value=CONSTANT)
    y_NC = 2 * F.one_hot(target_N, classes).double() - 1
    weights_FC = primal(z_NF, y_NC, l2) if z_NF.shape[0] >= z_NF.shape[1] else dual(z_NF, y_NC, l2)
    return Linear(mean_D, scale_D, weights_FC[:-1].T, CONSTANT * weights_FC[-1])


def primal(z_NF: Tensor, y_NC: Tensor, l2: float) -> Tensor:
    """The ridge's weights (F, C) by a system of F equations: (Z'Z + l2 I)^-1 Z'Y."""
    return _solve(z_NF.T @ z_NF, z_NF.T @ y_NC, l2)


def dual(z_NF: Tensor, y_NC: Tensor, l2: float) -> Tensor:
    """The same weights by a system of N equations: Z' (ZZ' + l2 I)^-1 Y."""
    return z_NF.T @ _solve(z_NF @ z_NF.T, y_NC, l2)


def logistic(x_ND: Tensor, target_N: Tensor, classes: int, l2: float, chunk: int, start: Linear | None = None) -> Linear:
    """Mean cross entropy (nats) plus l2 / 2 times the squared weights (l2 > 0; the bias is free), by L-BFGS over all pictures.

    chunk: pictures whose scores are held at a time. start: weights to begin with, of the same pictures; it changes how long it
    takes. After STEPS steps it stops wherever it is.
    """
    mean_D, scale_D = _moments(x_ND)
    z_NF = F.pad((x_ND.double() - mean_D) / scale_D, (0, 1), value=1.0)
    weights_CF = z_NF.new_zeros(classes, z_NF.shape[1])
    if start is not None:
        weights_CF = torch.cat([start.weights_CD, start.bias_C[:, None]], 1)
    _minimise(weights_CF, lambda: _descend(weights_CF, z_NF, target_N, l2, chunk))
    return Linear(mean_D, scale_D, weights_CF[:, :-1], weights_CF[:, -1])


def _moments(x_ND: Tensor) -> tuple[Tensor, Tensor]:
    x_ND = x_ND.double()
    return x_ND.mean(0), x_ND.std(0, correction=0) + FLOOR


def _solve(a: Tensor, b: Tensor, l2: float) -> Tensor:
    return torch.cholesky_solve(b, torch.linalg.cholesky(a + l2 * torch.eye(len(a), dtype=a.dtype, device=a.device)))


def _minimise(weights: Tensor, loss: Callable[[], float]) -> None:
    """Move `weights` to where `loss`, which leaves its gradient in weights.grad, is least."""
    optimizer = torch.optim.LBFGS(
        [weights],
        max_iter=STEPS,
        max_eval=4 * STEPS,
        tolerance_grad=GRADIENT,
        tolerance_change=CHANGE,
        history_size=HISTORY,
        line_search_fn="strong_wolfe",
    )
    optimizer.step(loss)  # type: ignore[no-untyped-call]


def _descend(weights_CF: Tensor, z_NF: Tensor, target_N: Tensor, l2: float, chunk: int) -> float:
    """The logistic loss; its gradient, (softmax - one-hot)'Z / N + l2 W, replaces weights_CF.grad."""
    gradient_CF = l2 * weights_CF
    gradient_CF[:, -1] = 0
    loss = float((gradient_CF * weights_CF).sum()) / 2
    for part_NF, part_N in zip(torch.split(z_NF, chunk), torch.split(target_N, chunk), strict=True):
        scores_NC = part_NF @ weights_CF.T
        loss += float(F.cross_entropy(scores_NC, part_N, reduction="sum")) / len(z_NF)
        excess_NC = scores_NC.softmax(1) - F.one_hot(part_N, len(weights_CF))
        gradient_CF += excess_NC.T @ part_NF / len(z_NF)
    weights_CF.grad = gradient_CF
    return loss
