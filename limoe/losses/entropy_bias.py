"""How much the entropy of a mean over few tokens is too low: the bias of what the global entropy terms see in a routing group.

Axes: T tokens, E experts, B pairs.

The entropy of an estimated mean p is biased by about -1/2 sum_e Var(p_e) / p_e (its second-order term). For n independent hard
choices Var(p_e) = p_e (1 - p_e) / n, which gives Miller and Madow's -(E - 1) / (2 n). Probabilities of a softmax vary less, so
that this bounds them while tokens are independent. But the tokens of one picture resemble each other: then pairs, not tokens, are
what was drawn independently, and the variance is that of a ratio of sums over pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class EntropyBias(NamedTuple):
    """In nats. entropy: of the mean over all tokens that were given. bias: of the same over as many pairs as asked for, negative.
    independent: the bias if tokens were independent."""

    entropy: float
    bias: float
    independent: float


def hard_bias(experts: int, tokens: float) -> float:
    """Bias in nats of the entropy of the shares of `tokens` independent hard choices (Miller 1955).

    >>> hard_bias(experts=16, tokens=75)
    -0.1
    """
    return -(experts - 1) / (2 * tokens)


def entropy_bias(probs_TE: Tensor, pair_T: Tensor, pairs: int) -> EntropyBias:
    """Of the mean of `probs_TE` (rows of one modality, float) over groups of `pairs` pairs; pair_T: int64, each row's pair.

    ValueError with rows of fewer than two pairs, which tell nothing of how pairs differ.
    """
    probs_TE = probs_TE.double()
    own_T: Tensor = pair_T.unique(return_inverse=True)[1]  # type: ignore[no-untyped-call]
    drawn = int(own_T.max()) + 1
    if drawn < 2:
        raise ValueError("the bias of an entropy over groups needs rows of two pairs at least")
    mean_E, tokens = probs_TE.mean(0), len(probs_TE) / drawn
    over_BE = probs_TE.new_zeros(drawn, len(mean_E)).index_add_(0, own_T, probs_TE - mean_E)  # sum over a pair's tokens
    by_pairs_E = over_BE.square().sum(0) / (drawn - 1) / (pairs * tokens**2)
    by_tokens_E = (probs_TE - mean_E).square().sum(0) / (len(probs_TE) - 1) / (pairs * tokens)
    seen_E = mean_E > 0
    half = [-0.5 * float((variance_E[seen_E] / mean_E[seen_E]).sum()) for variance_E in (by_pairs_E, by_tokens_E)]
    return EntropyBias(float(torch.special.entr(mean_E).sum()), *half)
