"""The auxiliary loss of a whole model: every active term, for every sparse layer, under one coefficient.

total = c * sum_i w_i L_i / n (LIMoE). `moe.aux_rule`: with `average` n is the number of active terms, so that switching one off
raises the others' share (the paper); with `fixed` n is 1 and each term keeps its own. Terms of weight 0 are not computed.
`moe.layers`: L_i is the mean over the sparse layers or their sum. Axes: T rows of the stream, G routing groups.

A term has a value for each routing group and is averaged over the groups of the whole batch. So a micro-batch, or a rank, gives
the share that its own groups have in that average, and the shares add up to what the whole batch at once would have given.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from limoe.config import MoeParams
from limoe.losses import routing as terms
from limoe.model.router import Routing
from limoe.model.tokens import IMAGE, TEXT, Layout


def group_weights(layout: Layout, dtype: torch.dtype) -> dict[str, Tensor]:
    """weight_GT (see `losses.routing`) for all real tokens, and for those of each modality."""
    member_GT = F.one_hot(layout.group_T, layout.groups).T.to(dtype) * layout.real_T
    return {
        "all": member_GT,
        "text": member_GT * (layout.modality_T == TEXT),
        "image": member_GT * (layout.modality_T == IMAGE),
    }


def layer_terms(routing: Routing, weights: dict[str, Tensor], moe: MoeParams) -> dict[str, Tensor]:
    """The active terms of one layer, unweighted: float (G,), a value a group."""
    tau_text, tau_image = moe.thresholds
    compute = {
        "importance": lambda: terms.importance(routing.probs_TE, weights["all"]),
        "load": lambda: terms.load(routing.logits_TE, routing.noisy_TE, weights["all"], moe.k, routing.sigma),
        "z": lambda: terms.z_loss(routing.logits_TE, weights["all"]),
        "local_text": lambda: terms.local_entropy(routing.probs_TE, weights["text"]),
        "local_image": lambda: terms.local_entropy(routing.probs_TE, weights["image"]),
        "global_text": lambda: terms.global_entropy(routing.probs_TE, weights["text"], tau_text),
        "global_image": lambda: terms.global_entropy(routing.probs_TE, weights["image"], tau_image),
    }
    return {name: compute[name]() for name in moe.aux_weights.active()}


def group_share(layout: Layout, moe: MoeParams, total_groups: int | None, ranks: int) -> float:
    """What one group's value counts for. ValueError if a part of a batch is no whole number of routing groups."""
    if total_groups is None:
        return 1 / layout.groups
    if layout.images % moe.group_pairs:
        raise ValueError(
            f"a micro-batch ({layout.images} pairs) must be a multiple of the routing group ({moe.group_pairs} pairs)"
        )
    return ranks / total_groups


def auxiliary_loss(
    routings: dict[int, Routing], layout: Layout, moe: MoeParams, total_groups: int | None = None, ranks: int = 1
) -> tuple[Tensor, dict[str, Tensor]]:
    """(the weighted loss to add to the objective, each active term's mean over the layers for the report).

    total_groups: routing groups of the whole batch, over all micro-batches and ranks; None if `layout` is all of it. ranks: over
    how many of them gradients (and reports) will be *averaged*, as DistributedDataParallel does; 1 if they are summed. Over a
    rank's micro-batches both are summed. Value, gradient and reports then equal those of the whole batch. The router's noise
    must be keyed likewise (NoiseKey.first_group).
    """
    any_routing = next(iter(routings.values()))
    active = moe.aux_weights.active()
    if not active or moe.aux_coefficient == 0:
        return any_routing.probs_TE.new_zeros(()), {}
    share = group_share(layout, moe, total_groups, ranks)
    with torch.autocast(any_routing.probs_TE.device.type, enabled=False):
        weights = group_weights(layout, any_routing.probs_TE.dtype)
        by_layer = [layer_terms(routing, weights, moe) for routing in routings.values()]
        means = {name: torch.stack([layer[name] for layer in by_layer]).mean(0).sum() * share for name in active}
        return weighted(means, len(by_layer), moe), means


def weighted(means: dict[str, Tensor], layers: int, moe: MoeParams) -> Tensor:
    """The loss of the active terms, each given as its mean over so many layers."""
    active = moe.aux_weights.active()
    total = torch.stack([active[name] * means[name] for name in active]).sum()
    divisor = len(active) if moe.aux_rule == "average" else 1
    return moe.aux_coefficient * (layers if moe.layers == "sum" else 1) * total / divisor
