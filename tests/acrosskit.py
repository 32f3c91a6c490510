"""Experts divided over ranks: some rows of each rank, and what they come to, together or in one process.

Axes: T rows of a rank, K choices, E experts, D width.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from routekit import WIDTH, decisions, make_experts

from limoe.mesh import Mesh
from limoe.model.router import Routing
from limoe.world import World

EXPERTS, K, ROWS = 4, 2, (9, 5, 7, 3)  # rows of each rank
DROPS = {"some": 0.3, "all": 1.0}
WEIGHTS = ("w1_EDF", "b1_EF", "w2_EFD", "b2_ED")
Found = dict[str, torch.Tensor]


def inputs(rank: int, drop: str, skewed: bool) -> tuple[torch.Tensor, Routing]:
    """A rank's rows and what was decided about them. skewed: all choices fall on the first two experts."""
    generator = torch.Generator().manual_seed(rank)
    x_TD = torch.randn(ROWS[rank], WIDTH, dtype=torch.float64, generator=generator).requires_grad_()
    routing = decisions(ROWS[rank], EXPERTS, K, DROPS[drop], seed=rank)
    expert_TK = routing.expert_TK % 2 if skewed else routing.expert_TK
    return x_TD, replace(routing, expert_TK=expert_TK, gate_TK=routing.gate_TK.clone().requires_grad_())


def run(parts: list[tuple[torch.Tensor, Routing]], mesh: Mesh, kernel: str) -> list[Found]:
    """What each of these parts comes to, one after the other, through one stack of experts, or this rank's share of it."""
    module = make_experts(EXPERTS, kernel, seed=0)
    module.divide(mesh.owners)
    outs = [module(x_TD, routing) for x_TD, routing in parts]
    scales = [torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out) for out in outs]
    torch.stack([(out * scale).sum() for out, scale in zip(outs, scales, strict=True)]).sum().backward()
    weights = {name: getattr(module, name).grad for name in WEIGHTS}
    mesh.replicas.sum_(weights.values())
    whole = {name: mesh.owners.gather(gradient) for name, gradient in weights.items()}
    return [
        {"out": out.detach(), "x": x_TD.grad, "gate": routing.gate_TK.grad} | whole
        for out, (x_TD, routing) in zip(outs, parts, strict=True)
    ]


CASES = [
    (drop, skewed, kernel)
    for drop, skewed in (("some", False), ("some", True), ("all", False))
    for kernel in ("loop", "streamed")
]


def on_a_rank(world: World, expert_parallel: int) -> list[Found]:
    mesh = Mesh.of(world, expert_parallel)
    return [run([inputs(world.rank, drop, skewed)], mesh, kernel)[0] for drop, skewed, kernel in CASES]
