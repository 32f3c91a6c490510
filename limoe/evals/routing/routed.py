"""What a model's routers decide of given pairs, token by token.

Axes: N pairs, T tokens of all of them, L MoE layers, E experts, K choices a token.

Two passes. Evaluation (no noise, nothing dropped) tells which experts a token is sent to. Training (noise, capacity and priority
of the model's own, in groups of its own size) tells which tokens would be dropped. The model is not changed by either.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limoe.model.limoe import Limoe
from limoe.model.router import NoiseKey, Routing
from limoe.model.tokens import TEXT, PairBatch

NO_ID = -1
AXES = (0, 0, 0, 0, 1, 1, 1, 1, 1)  # where T stands in the fields of Routed behind the layers
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Routed:
    """Tokens of whole pairs, in no order that matters.

    layers_L: block numbers. pair_T: number of the pair. modality_T: TEXT or IMAGE. position_T: patch (row by row) or place in the
    caption, from 0. id_T: token id, NO_ID for patches.
    probs_LTE: float32, clean softmax. chosen_LTE: whether evaluation sends the token there. first_LT: its first choice, E if it
    has none. asked_LTE, placed_LTE: the choices in training, and those of them that found room.
    """

    layers_L: Ints
    pair_T: Ints
    modality_T: Ints
    position_T: Ints
    id_T: Ints
    probs_LTE: NDArray[np.float32]
    chosen_LTE: Bools
    first_LT: Ints
    asked_LTE: Bools
    placed_LTE: Bools

    @property
    def experts(self) -> int:
        """E."""
        return int(self.probs_LTE.shape[-1])

    def of(self, modality: int) -> Bools:
        """bool (T,): the tokens of a modality."""
        return np.asarray(self.modality_T == modality)


@torch.inference_mode()
def route(model: Limoe, batches: Iterable[PairBatch], device: torch.device) -> Routed:
    """Route every batch twice. A batch should be one or more whole groups (`model.group_pairs`); a smaller one is a group."""
    parts, pairs = [], 0
    for batch in batches:
        parts.append(_route(model, batch.to(device), pairs))
        pairs += len(batch)
    columns = zip(*parts, strict=True)
    joined = [np.concatenate(one, axis=axis) for one, axis in zip(columns, AXES, strict=True)]
    return Routed(np.array(model.encoder.sparse), *joined)


def _route(model: Limoe, batch: PairBatch, first_pair: int) -> tuple[NDArray[Any], ...]:
    """All of a Routed but the layers."""
    seen = model.eval()(batch)
    trained = model.train()(batch, NoiseKey(seed=0, step=0, first_group=first_pair // (model.group_pairs or 1)))
    model.eval()
    layout = seen.layout
    assert layout is not None
    assert layout.text is not None
    real_T = layout.real_T
    patches_T = torch.arange(layout.images, device=real_T.device).repeat_interleave(layout.patches)
    pair_T = torch.cat([patches_T, layout.text.pair_N])[real_T] + first_pair
    modality_T = layout.modality_T[real_T]
    id_T = torch.full_like(modality_T, NO_ID)
    id_T[modality_T == TEXT] = batch.ids_N
    evaluated, dropping = seen.routings.values(), trained.routings.values()
    by_layer = (
        [routing.probs_TE.float() for routing in evaluated],
        [_hot(routing, routing.asked_TK) for routing in evaluated],
        [_first(routing) for routing in evaluated],
        [_hot(routing, routing.asked_TK) for routing in dropping],
        [_hot(routing, routing.placed_TK) for routing in dropping],
    )
    stacked = [torch.stack([one[real_T] for one in layers]) for layers in by_layer]
    return tuple(one.cpu().numpy() for one in (pair_T, modality_T, layout.position_T[real_T], id_T, *stacked))


def _hot(routing: Routing, kept_TK: Tensor) -> Tensor:
    """bool (T, E): whether a row has that expert among its kept choices."""
    return torch.zeros_like(routing.probs_TE, dtype=torch.bool).scatter(1, routing.expert_TK, kept_TK)


def _first(routing: Routing) -> Tensor:
    """int64 (T,): each row's best choice, E where it made none."""
    return torch.where(routing.asked_TK[:, 0], routing.expert_TK[:, 0], routing.probs_TE.shape[1])
