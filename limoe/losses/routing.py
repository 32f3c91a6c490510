"""The auxiliary losses of LIMoE (arXiv 2206.02770, section 2.2 and appendix) and V-MoE (arXiv 2106.05974, appendix A).

Axes: T rows of the stream, E experts, G routing groups.

Each term is a pure function of router tensors and of weight_GT: 1 where row t counts in group g, else 0. Groups, modalities and
padding are all said by that weight. Each returns loss_G, a value a group; `losses.auxiliary` averages them over the groups of the
whole batch. Entropies are in nats.

A group without a row that counts has nothing to say: it gives 0, and yet is one of the groups that are averaged over, so that
what a group counts for depends on no other group. (In training it does not occur: every pair has both modalities.)
"""

from __future__ import annotations

import torch
from torch import Tensor


def _squared_variation(x_GE: Tensor) -> Tensor:
    """(G,): (std / mean)^2 over the experts, population std; 0 where all are 0."""
    variance_G: Tensor = x_GE.var(1, correction=0)
    return variance_G / x_GE.mean(1).square().clamp(min=torch.finfo(x_GE.dtype).tiny)


def _mean(x_TN: Tensor, weight_GT: Tensor) -> Tensor:
    """(G, N): mean of x over each group's rows, 0 for a group that has none."""
    return (weight_GT @ x_TN) / weight_GT.sum(1, keepdim=True).clamp(min=1)


def entropy(probs_TE: Tensor) -> Tensor:
    """H(p) of each row in nats, with 0 log 0 = 0.

    >>> entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
    tensor([0.6931, 0.0000])
    """
    entropy_T: Tensor = torch.special.entr(probs_TE.clamp(min=torch.finfo(probs_TE.dtype).tiny)).sum(-1)
    return entropy_T


def importance(probs_TE: Tensor, weight_GT: Tensor) -> Tensor:
    """(std/mean)^2 over the experts of sum_x p(e|x), clean probabilities.

    Sums (1.5, 0.5) have mean 1 and variance 0.25:

    >>> importance(torch.tensor([[0.75, 0.25], [0.75, 0.25]]), torch.ones(1, 2))
    tensor([0.2500])
    """
    return _squared_variation(weight_GT @ probs_TE)


def load(logits_TE: Tensor, noisy_TE: Tensor, weight_GT: Tensor, k: int, sigma: float) -> Tensor:
    """(std/mean)^2 over the experts of the mean over x of p_e(x) = 1 - Phi((eta_K - (Wx)_e) / sigma).

    eta_K is the K-th largest noisy logit of the row: p_e is the chance that fresh noise on (Wx)_e would clear it.
    Raises ValueError for sigma = 0, where the chance has no gradient.
    """
    return _squared_variation(_mean(chances(logits_TE, noisy_TE, k, sigma), weight_GT))


def chances(logits_TE: Tensor, noisy_TE: Tensor, k: int, sigma: float) -> Tensor:
    """p_e(x) of the load loss."""
    if sigma <= 0:
        raise ValueError("the load loss needs router noise (sigma > 0)")
    threshold_T1 = noisy_TE.max(1, keepdim=True).values if k == 1 else noisy_TE.topk(k, dim=1).values[:, -1:]  # max is faster
    chance_TE: Tensor = torch.special.ndtr((logits_TE - threshold_T1) / sigma)
    return chance_TE


def z_loss(logits_TE: Tensor, weight_GT: Tensor) -> Tensor:
    """Mean of logsumexp(Wx)^2 (ST-MoE, arXiv 2202.08906): keeps the logits small.

    >>> z_loss(torch.zeros(3, 2), torch.ones(1, 3)).item() == torch.log(torch.tensor(2.0)).square().item()
    True
    """
    return _mean(squared_size(logits_TE), weight_GT)[:, 0]


def squared_size(logits_TE: Tensor) -> Tensor:
    """(T, 1): logsumexp(Wx)^2."""
    return torch.logsumexp(logits_TE, 1, keepdim=True).square()


def local_entropy(probs_TE: Tensor, weight_GT: Tensor) -> Tensor:
    """mean_x H(p(.|x)) over the rows of one modality: low where tokens are confident."""
    return _mean(entropy(probs_TE)[:, None], weight_GT)[:, 0]


def global_entropy(probs_TE: Tensor, weight_GT: Tensor, tau: float) -> Tensor:
    """max(0, tau - H(mean_x p(.|x))) over the rows of one modality: a soft minimum of exp(tau) experts in use.

    All rows on one expert have marginal entropy 0, so the loss is tau:

    >>> global_entropy(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.ones(1, 2), 0.5)
    tensor([0.5000])
    """
    shortfall_G = (tau - entropy(_mean(probs_TE, weight_GT))).clamp(min=0)
    return shortfall_G * (weight_GT.sum(1) > 0)
