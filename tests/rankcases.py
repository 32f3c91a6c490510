"""What tests have several ranks do: functions that the ranks' processes can import (pytest's own modules they cannot)."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from modelkit import batch
from stepkit import GROUP, PAIRS, STEP, pairs, task

from limoe import world as module
from limoe.interrupt import Interrupted
from limoe.mesh import Mesh
from limoe.model.tokens import PairBatch
from limoe.train.alarm import Stopped
from limoe.train.gradients import Gradients
from limoe.train.loop import Trainer
from limoe.world import World


def everything(world: World) -> dict[str, Any]:
    """All calls of a World once, by two ranks."""
    module.BUCKET_BYTES = 16
    mine_RV = torch.tensor([[1.0, 2.0]], dtype=torch.float64) * (world.rank + 1)
    leaf_RV = mine_RV.clone().requires_grad_()
    gathered_BV = world.gather(leaf_RV)
    weights_BV = torch.tensor([[1.0, 10.0], [100.0, 1000.0]], dtype=torch.float64) * (world.rank + 1)
    (gathered_BV * weights_BV).sum().backward()
    sums = [torch.full((3,), world.rank + 1.0), torch.tensor(world.rank), torch.ones(2), torch.ones(2, 2).T, torch.ones(1)]
    world.sum_(sums)
    tops = torch.tensor([world.rank, -world.rank])
    world.max_(tops)
    world.barrier()
    agreed = [world.most(world.rank), world.agree(world.rank), world.agree(world.rank == 0), world.most(True)]
    told = world.collect({"rank": world.rank, "name": "ö" * (1 + world.rank)})
    return {"gathered": gathered_BV.detach(), "grad": leaf_RV.grad, "sums": sums, "tops": tops, "agreed": agreed, "told": told}


LOSSES: list[dict[str, Any]] = [
    {"loss": "softmax"},
    {"loss": "softmax", "loss_chunk": 3},
    {"loss": "softmax", "positives": "equal-captions"},
    {"loss": "softmax", "positives": "equal-captions", "loss_chunk": 3},
    {"loss": "sigmoid"},
    {"loss": "sigmoid", "positives": "equal-captions", "loss_chunk": 3},
]
STEPS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # name: (changes of moe, changes of train)
    **{f"{number}": ({"k": 2}, {"micro_batch": None, **changes}) for number, changes in enumerate(LOSSES)},
    **{f"{number}, cut": ({"k": 2}, {"micro_batch": GROUP, **changes}) for number, changes in enumerate(LOSSES)},
    **{router: ({"router": router}, {"micro_batch": 4}) for router in ("loss-free", "expert-choice")},
}


def part(world: World, whole: PairBatch) -> PairBatch:
    """What this rank has of a batch."""
    return whole.split(len(whole) // world.size)[world.rank]


def one_step(world: World, name: str) -> dict[str, torch.Tensor]:
    """All that a step of this name comes to: losses, reports, sums of counts, gradients."""
    shape, changes = STEPS[name]
    one = replace(task(shape=shape, **changes), mesh=Mesh.of(world, 1))
    result = Gradients(one)(part(world, pairs()), STEP)
    found = {f"{name}/{key}": value for name, values in vars(result).items() for key, value in values.items()}
    found |= {f"gradient/{key}": p.grad for key, p in one.model.named_parameters() if p.grad is not None}
    one.adjust(result.observed)
    return found | {f"buffer/{key}": buffer for key, buffer in one.model.named_buffers()}


class Parts:
    """A loader of this rank's part of random batches named by their number; in `broken` ones it holds a NaN on the last rank."""

    def __init__(self, world: World, broken: set[int] = frozenset(), signal_at: int | None = None) -> None:
        self.world, self.number, self.broken, self.signal_at = world, 0, broken, signal_at

    def __next__(self) -> PairBatch:
        mine, last = part(self.world, batch(PAIRS, seed=self.number, dtype=torch.float64)), self.world.rank == self.world.size - 1
        if last and self.number in self.broken:
            mine.images_BCHW[0, 0, 0, 0] = torch.nan
        if last and self.number == self.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)
        self.number += 1
        return mine

    def state_dict(self) -> dict[str, Any]:
        return {"number": self.number}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.number = state["number"]


RECIPE = {"steps": 3, "warmup": 1, "log_every": 1, "lr": 0.01, "clip_norm": 0.05, "ema": 0.5}
KEPT = {"every": 1, "minutes": None, "keep": 3}


def trainer(world: World, folder: Path, loader: Parts | None = None, **changes: Any) -> Trainer:
    """A training of three steps, whose gradients are clipped and whose loss-free router moves; where it left off."""
    one = replace(task(shape={"router": "loss-free"}, **RECIPE | {"checkpoints": KEPT} | changes), mesh=Mesh.of(world, 1))
    return Trainer(one, loader or Parts(world), one.train, folder, lambda _: None, lambda _: None).resume()


def ended(run: Trainer) -> dict[str, Any]:
    """Weights, buffers, averages and optimiser state, as a checkpoint has them."""
    return {f"{part}/{name}": tensor for part, one in run.saver.tensors.items() for name, tensor in one.state_dict().items()}


def three_steps(world: World, folder: Path, until: int | None = None) -> dict[str, Any]:
    """A training that goes on to the end, or to step `until`."""
    run = trainer(world, folder)
    begun = run.step
    run.run(until)
    return {"begun": begun, "state": ended(run)}


def spoilt_step(world: World, folder: Path) -> dict[str, Any]:
    """The second step has a NaN on the last rank alone."""
    run = trainer(world, folder, Parts(world, broken={1}), max_bad_steps=2)
    run.run()
    return {"skipped": run.guard.skipped, "state": ended(run)}


HEALTH = {"action": "rollback", "rollback": {"lr_factor": 0.5, "most": 1}, "window": 1, "grace": 0.0, "placed": 0.0}
HEALTH |= {"effective": 0.0, "dead": 1.0, "chance": 1e3, "diverged": 1e3, "logit_scale": 100.0}


def rolled_back(world: World, folder: Path) -> dict[str, Any]:
    """The third and fourth step have a NaN on the last rank alone, which is one too many."""
    changes = {"steps": 6, "max_bad_steps": 2, "checkpoints": KEPT | {"keep": 1}, "health": HEALTH}
    trainer(world, folder, **changes).run(until=0)  # which leaves a checkpoint to go on from
    run = trainer(world, folder, Parts(world, broken={2, 3}), **changes)
    run.run()
    return {"done": [(rollback.step, rollback.to) for rollback in run.rollbacks.done], "state": ended(run)}


def not_recovered(world: World, folder: Path) -> str:
    """The same, and then a loss that is out of its range at the end, long before the grace is over; how it ended."""
    health = HEALTH | {"grace": 0.9, "chance": 1e-3}
    changes = {"steps": 6, "max_bad_steps": 2, "checkpoints": KEPT | {"keep": 1}, "health": health}
    try:
        trainer(world, folder, Parts(world, broken={2, 3}), **changes).run()
    except Stopped as stopped:
        return str(stopped)
    return "well"


def interrupted(world: World, folder: Path) -> dict[str, Any]:
    """The last rank alone gets SIGTERM, in its second step."""
    run = trainer(world, folder, Parts(world, signal_at=1), checkpoints=KEPT | {"every": 100})
    try:
        run.run()
    except Interrupted as told:
        return {"code": told.exit_code, "step": run.step}
    return {}


def short_of_memory(world: World) -> dict[str, torch.Tensor]:
    """With `auto` the last rank finds room for two pairs at a time; the others have enough."""
    one = replace(task(shape={"k": 2}, micro_batch="auto"), mesh=Mesh.of(world, 1))

    def hook(_: object, args: tuple[PairBatch, ...], output: Any) -> None:
        if world.rank == world.size - 1 and len(args[0]) > GROUP and output.image_BV.requires_grad:
            output.image_BV.register_hook(fail)

    def fail(_: object) -> None:
        raise torch.OutOfMemoryError("none left")

    one.model.register_forward_hook(hook)
    gradients = Gradients(one)
    gradients(part(world, pairs()), STEP)
    found = {f"gradient/{key}": p.grad for key, p in one.model.named_parameters() if p.grad is not None}
    return found | {"held": torch.tensor(gradients.held(PAIRS // world.size))}


def all_cases(world: World, folder: Path) -> dict[str, Any]:
    """All of them, one after the other."""
    return {
        "steps": {name: one_step(world, name) for name in STEPS},
        "memory": short_of_memory(world),
        "training": three_steps(world, folder / f"{world.size}"),
        "begun": three_steps(world, folder / f"from-{world.size}", until=1),
        "from-1": three_steps(world, folder / f"1-to-{world.size}"),
        "from-2": three_steps(world, folder / f"2-to-{world.size}"),
        "spoilt": spoilt_step(world, folder / f"spoilt-{world.size}"),
        "rolled back": rolled_back(world, folder / f"rolled-{world.size}"),
        "not recovered": not_recovered(world, folder / f"not-recovered-{world.size}"),
        "interrupted": interrupted(world, folder / f"interrupted-{world.size}"),
    }
