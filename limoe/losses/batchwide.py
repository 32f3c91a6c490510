"""The auxiliary loss over all tokens of a batch, in whichever group, micro-batch or rank they are (`moe.aux_scope`: global).

A term looks at the mean of some figures over the tokens: their probabilities, chances, entropies. So all that a part of a batch
has to say is its sums. Parts and ranks add theirs up before the function that is not linear, and what that sends back to the
sums is the gradient that every part needs.

Axes: T rows of the stream, E experts, N figures of a term (E or 1), L sparse layers, P parts of a batch, C columns of all sums.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from limoe.config import MoeParams
from limoe.losses import routing as terms
from limoe.losses.auxiliary import group_weights, weighted
from limoe.model.router import Routing
from limoe.model.tokens import Layout
from limoe.world import ALONE, World


def batch_sums(routings: dict[int, Routing], layout: Layout, moe: MoeParams) -> Tensor:
    """float (1, L, C): the sums of this part of a batch; those of several parts are joined along the first axis.

    C: how many tokens of text there are and of images, then the active terms' figures, summed over the tokens they look at.
    """
    dtype = next(iter(routings.values())).probs_TE.dtype
    with torch.autocast(layout.group_T.device.type, enabled=False):
        weights = {name: weight_GT.sum(0, keepdim=True) for name, weight_GT in group_weights(layout, dtype).items()}
        counts = [weights[name].sum(1, keepdim=True) for name in ("text", "image")]
        return torch.stack([torch.cat([*counts, *_sums(routing, weights, moe)], dim=1) for routing in routings.values()], dim=1)


def loss_of_sums(sums_PLC: Tensor, moe: MoeParams, world: World = ALONE) -> tuple[Tensor, dict[str, Tensor]]:
    """(the weighted loss to add to the objective, each active term's mean over the layers for the report), from the sums of this
    rank's parts: this rank's shares, which add up to the whole over the ranks of `world`."""
    active = moe.aux_weights.active()
    if not active or moe.aux_coefficient == 0:
        return 0 * sums_PLC.sum(), {}
    widths = [2, *(_width(name, moe) for name in active)]
    counts_L2, *sums = torch.split(world.total(sums_PLC.sum(0)), widths, dim=1)
    counts = {"text": counts_L2[:, :1], "image": counts_L2[:, 1:], "all": counts_L2.sum(1, keepdim=True)}
    means = {
        name: _value(name, sum_LN, counts[_over(name)], moe).mean() / world.size
        for name, sum_LN in zip(active, sums, strict=True)
    }
    return weighted(means, len(counts_L2), moe), means


def _over(name: str) -> str:
    """Which tokens a term looks at."""
    return next((modality for modality in ("text", "image") if name.endswith(modality)), "all")


def _width(name: str, moe: MoeParams) -> int:
    """N."""
    return 1 if name == "z" or name.startswith("local") else moe.experts


def _sums(routing: Routing, weights: dict[str, Tensor], moe: MoeParams) -> list[Tensor]:
    """(1, N) for each active term."""
    figures: dict[str, Callable[[], Tensor]] = {
        "importance": lambda: routing.probs_TE,
        "load": lambda: terms.chances(routing.logits_TE, routing.noisy_TE, moe.k, routing.sigma),
        "z": lambda: terms.squared_size(routing.logits_TE),
        "local": lambda: terms.entropy(routing.probs_TE)[:, None],
        "global": lambda: routing.probs_TE,
    }
    return [weights[_over(name)] @ figures[name.split("_")[0]]() for name in moe.aux_weights.active()]


def _value(name: str, sum_LN: Tensor, count_L1: Tensor, moe: MoeParams) -> Tensor:
    """(L,): the term in each layer. A layer's mean is the one token of a group of its own, where there were tokens at all."""
    mean_LN = sum_LN / count_L1.clamp(min=1)
    weight_LL = torch.diag((count_L1[:, 0] > 0).to(mean_LN.dtype))
    if name in ("importance", "load"):
        return terms.importance(mean_LN, weight_LL)
    if name.startswith("global"):
        return terms.global_entropy(mean_LN, weight_LL, moe.thresholds[name == "global_image"])
    return mean_LN[:, 0]
