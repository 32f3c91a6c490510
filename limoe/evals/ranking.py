"""The one rule for ranks: equal scores count against the model.

A model that gives every candidate the same score knows nothing, and an argmax that returns the first of them would let it score.
Scores are cosines in float32, where the same product comes out differently by about 1e-7 according to how a matrix is cut;
candidates within TIE of each other are therefore equal.
"""

from __future__ import annotations

from torch import Tensor

TIE = 1e-6


def similarity(a_ND: Tensor, b_MD: Tensor) -> Tensor:
    """Cosines (N, M) of unit vectors. The only place where evaluation makes a matrix of scores, so that a test can watch it."""
    return a_ND @ b_MD.T


def ranks(scores_NC: Tensor, target_N: Tensor, tie: float = TIE) -> Tensor:
    """int64 (N,): how many *other* candidates score at least as high as the true one, but for `tie`; 0 is a hit at 1.

    >>> import torch
    >>> ranks(torch.tensor([[0.9, 0.1, 0.5], [0.2, 0.2, 0.2]]), torch.tensor([2, 0]))
    tensor([1, 2])
    """
    true_N1 = scores_NC.gather(1, target_N[:, None])
    return (scores_NC >= true_N1 - tie).sum(1) - 1
