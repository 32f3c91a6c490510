"""Routers behind one interface: a new one is a file here and a line in ROUTERS."""

from __future__ import annotations

from limoe.config import MoeParams
from limoe.model.router.base import Draws, NoiseKey, Router, Routing
from limoe.model.router.expert_choice import ExpertChoiceRouter
from limoe.model.router.loss_free import LossFreeRouter
from limoe.model.router.top_k import TopKRouter
from limoe.model.router.uniform import UniformRouter

__all__ = ["ROUTERS", "Draws", "NoiseKey", "Router", "Routing", "make_router"]

ROUTERS: dict[str, type[Router]] = {
    "top-k": TopKRouter,
    "expert-choice": ExpertChoiceRouter,
    "loss-free": LossFreeRouter,
    "uniform": UniformRouter,
}


def make_router(width: int, moe: MoeParams, layer: int) -> Router:
    """The router that `moe.router` names, for the sparse block with this index.

    ValueError for `auto`, in whose place limoe.data.suggestion must have put another.
    """
    if moe.router not in ROUTERS:
        raise ValueError(f"moe.router must name a router here: {moe.router} has not been looked up")
    return ROUTERS[moe.router](width, moe, layer)
