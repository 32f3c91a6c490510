"""The training loop: batches in, weights out, and a log that can be cut back to any checkpoint.

A step is named by its number from 0. Randomness is keyed by (seed, step), never drawn from a running generator, so that a resumed
training does what an undisturbed one does, bit by bit.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import nn

from limoe.config import TrainParams
from limoe.model.tokens import PairBatch
from limoe.train.checkpoint import Checkpoint, Checkpoints
from limoe.train.health import FiniteGuard, RoutingMeter
from limoe.train.optim import learning_rate, load_optimizer_tensors, make_optimizer, optimizer_tensors
from limoe.train.step import ContrastiveTask, Objective

RECENT_STEPS = 1000  # behind the median step time
MAX_LOG_SCALE = math.log(100.0)  # CLIP's bound on the learned temperature


class Loader(Protocol):
    """What the loop asks of a loader: batches without end, and a state that names the next one."""

    def __next__(self) -> PairBatch: ...

    def state_dict(self) -> dict[str, Any]:
        """JSON-able, of the moment after the last batch."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from such a moment."""


class Journal:
    """Rows as JSON lines; its length in bytes goes into each checkpoint, and a resumed training cuts it back to that."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def append(self, rows: list[dict[str, Any]]) -> None:
        """Add rows at the end."""
        with self.path.open("a", encoding="utf-8") as handle:
            handle.writelines(json.dumps(row) + "\n" for row in rows)

    def sync(self) -> int:
        """Make all that was appended durable; its length in bytes."""
        with self.path.open("rb") as handle:
            os.fsync(handle.fileno())
        return self.path.stat().st_size

    def cut(self, length: int) -> None:
        """Forget all after `length` bytes."""
        with self.path.open("r+b") as handle:
            handle.truncate(length)

    def rows(self, start: int = 0) -> list[dict[str, Any]]:
        """All rows that begin at byte `start` or later."""
        with self.path.open("rb") as handle:
            handle.seek(start)
            return [json.loads(line) for line in handle]


class Trainer:
    """A training that lives in `folder` (checkpoints and two journals) and goes on from what it finds there.

    on_row is called with each new row of metrics; on_rows with those since the last call (a resumed training begins with all of
    them), when they are safe: at each checkpoint and at the end. Rows that no checkpoint covers may yet be computed again.
    """

    def __init__(
        self,
        task: ContrastiveTask,
        loader: Loader,
        train: TrainParams,
        folder: Path,
        on_row: Callable[[dict[str, Any]], None],
        on_rows: Callable[[list[dict[str, Any]]], None],
    ) -> None:
        self.task, self.loader, self.train = task, loader, train
        self.on_row, self.on_rows = on_row, on_rows
        self.model: nn.Module = task.model
        self.device = next(self.model.parameters()).device
        self.optimizer = make_optimizer(self.model, train)
        self.checkpoints = Checkpoints(folder / "checkpoints")
        self.metrics = Journal(folder / "metrics.jsonl")
        self.routing = Journal(folder / "routing.jsonl")
        self.meter = RoutingMeter()
        self.guard = FiniteGuard(train.max_bad_steps)
        self.seconds = 0.0  # of all steps, those before an interruption included
        self.recent_seconds: deque[float] = deque(maxlen=RECENT_STEPS)
        self.step = 0
        self.handed_out = 0  # bytes of the metrics' journal that on_rows has had from this process

    def resume(self) -> Self:
        """Go back to the last good checkpoint, or to the start if there is none."""
        checkpoint = self.checkpoints.latest()
        if checkpoint is None:
            self.metrics.cut(0)
            self.routing.cut(0)
            return self
        tensors, state = checkpoint.tensors, checkpoint.state
        self.model.load_state_dict({name[6:]: t for name, t in tensors.items() if name.startswith("model/")})
        load_optimizer_tensors(
            self.optimizer, self.model, {name[6:]: t for name, t in tensors.items() if name.startswith("optim/")}
        )
        self.loader.load_state_dict(state["loader"])
        self.meter.load_state_dict(state["meter"])
        self.guard.in_a_row, self.guard.skipped = state["guard"]
        self.seconds = state["seconds"][0]
        self.recent_seconds.extend(state["seconds"][1:])
        self.metrics.cut(state["journals"][0])
        self.routing.cut(state["journals"][1])
        self.step = checkpoint.step
        return self

    def save(self) -> None:
        """Write a checkpoint of this moment."""
        tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"optim/{name}": tensor for name, tensor in optimizer_tensors(self.optimizer, self.model).items()}
        metrics_length, routing_length = self.metrics.sync(), self.routing.sync()
        state = {
            "loader": self.loader.state_dict(),
            "meter": self.meter.state_dict(),
            "guard": [self.guard.in_a_row, self.guard.skipped],
            "journals": [metrics_length, routing_length],
            "seconds": [self.seconds, *self.recent_seconds],
        }
        self.checkpoints.save(Checkpoint(self.step, tensors, state))
        self._hand_out()

    def run(self, until: int | None = None) -> None:
        """Train to the last step, or to the end of step `until` if that comes before."""
        self.model.train()
        last = self.train.steps if until is None else min(until, self.train.steps)
        while self.step < last:
            start = time.perf_counter()
            rate = learning_rate(self.step, self.train)
            objective, norm = self._backward(next(self.loader).to(self.device), rate)
            self.step += 1
            self._clock(time.perf_counter() - start)
            if self.step % self.train.log_every == 0 or self.step == self.train.steps:
                self._log(objective, norm, rate)
            if self.step % self.train.checkpoint_every == 0 or self.step == self.train.steps:
                self.save()
        self._hand_out()  # a training that was killed after its last checkpoint comes here with rows that nobody has had

    def _clock(self, seconds: float) -> None:
        self.seconds += seconds
        self.recent_seconds.append(seconds)

    def _hand_out(self) -> None:
        if rows := self.metrics.rows(self.handed_out):
            self.on_rows(rows)
        self.handed_out = self.metrics.sync()

    def _backward(self, batch: PairBatch, rate: float) -> tuple[Objective, float]:
        """Loss, gradient and, if both are finite, one optimiser step."""
        objective = self.task(batch, self.step)
        self.optimizer.zero_grad(set_to_none=True)
        total = objective.total
        total.backward()  # type: ignore[no-untyped-call]
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.train.clip_norm))
        if self.guard.passes(float(total.detach()), norm, self.step, batch.keys):
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
            self.task.adjust([objective])
            self.meter.add(objective.output.routings, objective.output.layout)
            with torch.no_grad():
                self.model.logit_scale.clamp_(0, MAX_LOG_SCALE)  # type: ignore[operator]
        return objective, norm

    def _log(self, objective: Objective, norm: float, rate: float) -> None:
        scalars = {**objective.terms, **objective.report, "loss": objective.total, "gradient_norm": torch.tensor(norm)}
        row = {"step": self.step, "time": int(time.time() * 1000), "lr": rate}
        numbers = {name: float(value.detach()) for name, value in scalars.items()}
        row |= {name: number for name, number in numbers.items() if math.isfinite(number)}  # JSON has no NaN; skipped_steps tells
        row |= {"skipped_steps": self.guard.skipped} | self.meter.summary()
        self.metrics.append([row])
        self.routing.append(self.meter.rows(self.step))
        self.meter.reset()
        self.on_row(row)
