"""The auxiliary loss of a whole model: every active term, for every sparse layer, under one coefficient.

total = c * sum_i w_i L_i / n_active (LIMoE): the *average* of the active terms, so that switching one off raises the others'
share. Terms of weight 0 are not computed. Axes: T rows of the stream, G routing groups.
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
    """The active terms of one layer, unweighted."""
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


def auxiliary_loss(routings: dict[int, Routing], layout: Layout, moe: MoeParams) -> tuple[Tensor, dict[str, Tensor]]:
    """(the weighted loss to add to the objective, each active term's mean over the layers for the report)."""
    any_routing = next(iter(routings.values()))
    active = moe.aux_weights.active()
    if not active or moe.aux_coefficient == 0:
        return any_routing.probs_TE.new_zeros(()), {}
    with torch.autocast(any_routing.probs_TE.device.type, enabled=False):
        weights = group_weights(layout, any_routing.probs_TE.dtype)
        by_layer = [layer_terms(routing, weights, moe) for routing in routings.values()]
        means = {name: torch.stack([layer[name] for layer in by_layer]).mean() for name in active}
        average = torch.stack([active[name] * means[name] for name in active]).sum() / len(active)
        layers = len(by_layer) if moe.layers == "sum" else 1
        return moe.aux_coefficient * layers * average, means
