"""Trainings whose experts are divided over ranks, and whose dense weights may be, too; for `rankkit.together`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rankcases import KEPT, RECIPE, Parts, ended, part
from stepkit import GROUP, STEP, pairs, task
from trainkit import recipe

from limoe.mesh import Mesh
from limoe.model.spread import shard_encoder
from limoe.paths import Paths
from limoe.stages import train
from limoe.train import adafactor
from limoe.train.gradients import Gradients
from limoe.train.loop import Trainer
from limoe.train.step import ContrastiveTask
from limoe.world import World

Tensors = dict[str, torch.Tensor]
STEPS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # name: (changes of moe, changes of train)
    "whole": ({"k": 2}, {"micro_batch": None}),
    "cut, computed again": ({"k": 2}, {"micro_batch": GROUP}),
    "global": ({"k": 2, "aux_scope": "global"}, {"micro_batch": GROUP}),
    "expert-choice": ({"router": "expert-choice"}, {"micro_batch": 4}),
}
OPTIMIZERS = ("adamw", "adafactor", "muon")


def divided(world: World, owners: int, shape: dict[str, Any], **changes: Any) -> ContrastiveTask:
    """owners: how many ranks divide the experts; if negative, the dense weights are sharded, too."""
    one = replace(task(shape=shape, **changes), mesh=Mesh.of(world, abs(owners)))
    one.model.divide_experts(one.mesh.owners)
    if owners < 0:
        shard_encoder(one.model.encoder, world)
    return one


def one_step(world: World, owners: int, name: str) -> Tensors:
    """Losses, reports and counts of a step, and its gradients, those of the experts put together."""
    shape, changes = STEPS[name]
    one = divided(world, owners, shape, **changes)
    one.model.set_grad_checkpointing("again" in name)
    gradients = Gradients(one)
    result = gradients(part(world, pairs()), STEP)
    found = {f"{kind}/{key}": value for kind, values in vars(result).items() for key, value in values.items()}
    return found | gradients.holders.whole({key: p.grad for key, p in one.model.named_parameters() if p.grad is not None})


def training(world: World, owners: int, folder: Path, optimizer: str) -> Trainer:
    """Three steps whose gradients are clipped and whose loss-free router moves; where it left off."""
    adafactor.SMALLEST = 8  # so that experts' matrices are factored
    one = divided(world, owners, {"router": "loss-free"}, **RECIPE, checkpoints=KEPT, optimizer=optimizer)
    return Trainer(one, Parts(world), one.train, folder, lambda _: None, lambda _: None).resume()


def trained(world: World, owners: int, folder: Path, optimizer: str, until: int | None = None) -> Tensors:
    run = training(world, owners, folder, optimizer)
    run.run(until)
    return ended(run)


def optimizers(owners: int) -> tuple[str, ...]:
    """Those that move parts of weights."""
    return OPTIMIZERS if owners > 0 else ("adamw",)


def all_cases(world: World, owners: int, folder: Path) -> dict[str, dict[str, Tensors]]:
    """All of them, one after the other, as the main rank has them. The last training goes on from a copy of what one process
    has begun."""
    name = f"{world.size}-{owners}"
    found = {
        "steps": {step: one_step(world, owners, step) for step in STEPS},
        "trained": {one: trained(world, owners, folder / f"{one}-{name}", one) for one in optimizers(owners)},
        "continued": {"adamw": trained(world, owners, folder / f"begun-{name}", "adamw")},
    }
    return found if world.is_main else {}


def stage(world: World, root: Path, changes: tuple[str, ...]) -> None:
    """What a rank does in the train stage."""
    settings = recipe("train.precision=float32", "train.ema=0.5", "train.export=best", *changes)
    train._train(settings, Paths(root), "limoe", world)
