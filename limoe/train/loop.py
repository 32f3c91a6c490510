"""The training loop: batches in, weights out, and a log that can be cut back to any checkpoint.

A step is named by its number from 0. Randomness is keyed by (seed, step), never drawn from a running generator, so that a resumed
training does what an undisturbed one does, bit by bit: there is no random state that a checkpoint would have to hold.

With several ranks all of them do this, with equal weights: what decides anything (losses, norms, counts, alarms) is the sum over
all of them or a number that they agree on. One writes.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from limoe.config import TrainParams
from limoe.dist import fetch
from limoe.interrupt import Interrupted, Request, postponed
from limoe.model.tokens import PairBatch
from limoe.train.best import Best, Validate
from limoe.train.ema import Ema
from limoe.train.gradients import Gradients
from limoe.train.groups import GroupNorms
from limoe.train.guard import FiniteGuard
from limoe.train.health import MAX_SCALE, Alarm, Stopped, Watch
from limoe.train.holders import Whole
from limoe.train.meter import RoutingMeter, routing_rows, routing_summary
from limoe.train.optim import make_optimizer
from limoe.train.rollback import Rollback, Rollbacks
from limoe.train.saver import OptimizerState, Saver, Stateful
from limoe.train.schedule import learning_rate
from limoe.train.step import ContrastiveTask
from limoe.train.throughput import Pace

# What has a state beside model and optimiser.
PARTS = ("loader", "gradients", "meter", "guard", "watch", "pace", "best", "rollbacks")
MAX_LOG_SCALE = math.log(MAX_SCALE)


class Loader(Protocol):
    """What the loop asks of a loader: batches without end, and a state that names the next one."""

    def __next__(self) -> PairBatch: ...

    def state_dict(self) -> dict[str, Any]:
        """JSON-able, of the moment after the last batch."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from such a moment."""


class Trainer:
    """A training that lives in `folder` (checkpoints and three journals) and goes on from what it finds there.

    on_row is called with each new row of metrics; on_rows with those that a checkpoint has come to cover (see Saver). on_alarm is
    called with each new alarm, after it has joined `alarms`, and on_rollback with each rollback, after it has joined
    `rollbacks.done`; after an interruption they may be called with the last ones again. validate measures the model where
    train.export is best.
    """

    def __init__(
        self,
        task: ContrastiveTask,
        loader: Loader,
        train: TrainParams,
        folder: Path,
        on_row: Callable[[dict[str, Any]], None],
        on_rows: Callable[[list[dict[str, Any]]], None],
        on_alarm: Callable[[Alarm], None] = lambda _: None,
        on_rollback: Callable[[Rollback], None] = lambda _: None,
        validate: Validate | None = None,
    ) -> None:
        self.task, self.loader, self.train, self.world = task, loader, train, task.world
        self.on_row, self.on_alarm, self.on_rollback = on_row, on_alarm, on_rollback
        self.model: nn.Module = task.model
        self.device = next(self.model.parameters()).device
        self.gradients = Gradients(task)
        self.optimizer = make_optimizer(self.model, train)
        self.ema = None if train.ema is None else Ema(self.model, train.ema)
        self.norms = GroupNorms(self.model, self.gradients.holders.norm)
        self.meter = RoutingMeter(self.device)
        self.guard = FiniteGuard(train.max_bad_steps)
        self.watch = Watch(train, None if task.moe is None else task.moe.experts)
        self.best = Best(train, validate)
        self.rollbacks = Rollbacks(train)
        self.reads_every_step = self.device.type == "cpu"  # a bad step is known at once where nothing runs behind the host's back
        self.pace = Pace(self.device)
        self.step = 0
        tensors: dict[str, Stateful] = {"model": self.model, "optim": OptimizerState(self.optimizer, self.model)}
        tensors |= {} if self.ema is None else {"ema": self.ema}
        tensors = {name: Whole(one, self.gradients.holders) for name, one in tensors.items()}
        parts: dict[str, Stateful] = {name: getattr(self, name) for name in PARTS}
        self.saver = Saver(folder, train, tensors, parts, on_rows, self.world)
        self.metrics, self.routing, self.bad_batches = self.saver.metrics, self.saver.routing, self.saver.bad_batches

    @property
    def alarms(self) -> list[Alarm]:
        """All alarms so far, in the order in which they were raised."""
        return [alarm for rollback in self.rollbacks.done for alarm in rollback.alarms] + self._standing

    @property
    def stopping(self) -> Alarm | None:
        """The alarm that ends this training: the guard's, or the first one of all if alarms are to stop it."""
        return None if self._rolls_back else self._acting

    def resume(self) -> Self:
        """Go back to the newest undamaged checkpoint, or to the start if there is none."""
        self.step = self.saver.resume()
        return self

    def run(self, until: int | None = None) -> None:
        """Train to the last step, or to the end of step `until` if that comes before.

        Stopped if an alarm ends the training, which then ends at once whenever it is run again. Interrupted on SIGINT and
        SIGTERM, on whichever rank, when the step is finished and saved.
        """
        self.model.train()
        last = self.train.steps if until is None else min(until, self.train.steps)
        again = signal.SIG_DFL if self.world.size == 1 else signal.SIG_IGN  # torchrun may pass on what a rank has got already
        with self.saver, postponed(again) as request:
            self.pace.start(self.step)
            if self.step == 0 and self.rollbacks.on:
                self._save()  # what an alarm before the first checkpoint goes back to
            while self.step < last and self.stopping is None and not self._signal(request):
                self._advance()
                if self.saver.due(self.step) or self._acting is not None:
                    self._save()
                self.saver.poll()
            self.pace.lap(self.step)
            if self._signal(request) and self.saver.step != self.step:
                self._save()
            self.saver.settle()
            number = self._signal(request)  # and until here no rank has left the others alone
        if number:
            where = f"step {self.step} of {self.train.steps} is saved; run it again, and it goes on from there"
            raise Interrupted(number, where)
        if self.stopping is not None:
            raise Stopped(self.stopping, len(self.rollbacks.done))

    def choose_weights(self) -> None:
        """At the end: leave in the model what `train.export` names, and their averages as they were at that step.

        UserError if the best checkpoint is damaged.
        """
        if self.train.export == "best":
            self.saver.put_back(self.best.chosen, ("model",) if self.ema is None else ("model", "ema"))

    @property
    def _standing(self) -> list[Alarm]:
        """The alarms since the last rollback."""
        return self.watch.alarms + ([] if self.guard.alarm is None else [self.guard.alarm])

    @property
    def _acting(self) -> Alarm | None:
        """The alarm that stops the training or rolls it back, if one does."""
        return self.guard.alarm or (self.watch.alarms[0] if self.train.health.action != "warn" and self.watch.alarms else None)

    @property
    def _rolls_back(self) -> bool:
        """Whether there is an acting alarm, and it rolls the training back."""
        return self._acting is not None and self.rollbacks.left(self.step)

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """The model's state_dict and, if there are averages, it with these for its weights, by the names of their directories.

        Whole on the main rank; every rank must ask.
        """
        states = {name: dict(one.state_dict()) for name, one in self.saver.tensors.items() if name != "optim"}
        model = states["model"]
        return {name: model | {key: state[key] for key in state.keys() & model.keys()} for name, state in states.items()}

    def _advance(self) -> None:
        figures = self.take_step(next(self.loader).to(self.device))
        self.step += 1  # before an alarm is told: at the last step it stops the training
        read = self._read(figures) if figures or self.reads_every_step else None
        if figures and read is not None:
            self._log(*read)

    def _save(self) -> None:
        self._read({})
        self.pace.lap(self.step)
        if self._rolls_back:
            self._roll_back()
        self.saver.save(self.step, (*self.best.needs, *self.rollbacks.saving(self.step, self.watch.healthy)))
        self.pace.start(self.step)

    def _roll_back(self) -> None:
        rollback = self.rollbacks.add(self.step, self._standing)
        self.saver.put_back(rollback.to, (*self.saver.tensors, "watch"))
        self.watch.restart(rollback.step, rollback.to)
        self.guard.restart()
        self.meter.reset()
        self.on_rollback(rollback)

    def _signal(self, request: Request) -> int:
        """The signal that some rank has got, 0 if none has."""
        return self.world.most(request.number or 0)

    def _is_logged(self, step: int) -> bool:
        return step % self.train.log_every == 0 or step == self.train.steps or self.best.due(step)

    def take_step(self, batch: PairBatch) -> dict[str, Tensor]:
        """One optimiser step, left out if loss or gradient is not finite, with a batch on the device, which nothing waits for.

        Returned is what metrics.jsonl says of the step if it is to be logged, else nothing; scalars on the device.
        """
        result = self.gradients(batch, self.step)
        logged = self._is_logged(self.step + 1)
        figures = self.norms.gradients() if logged else {}  # before they are clipped
        norm = self.gradients.holders.clip(self.train.clip_norm)
        spoilt = self.guard.spoilt(result.total, norm, self.step + 1, batch.keys)
        before = self.norms.weights() if logged else None
        for group in self.optimizer.param_groups:
            group["lr"] = self.rollbacks.lr_factor * learning_rate(self.step, self.train) * group["lr_scale"]
        self.optimizer.step(spoilt)
        self.task.adjust(_unless(spoilt, result.observed))
        self.meter.add(_unless(spoilt, result.counts))
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, MAX_LOG_SCALE)  # type: ignore[operator]
        if self.ema is not None:
            self.ema.update(spoilt)
        if before is None:
            return {}
        figures |= self.norms.updates(before) | {"gradient_norm": norm}
        return {**result.terms, **result.report, "loss": result.total} | figures

    def _read(self, figures: dict[str, Tensor]) -> tuple[dict[str, float], dict[int, Tensor]]:
        """Wait for the device, and bring over in one transfer how the steps since the last time went, and for a step that is
        logged its figures and the routing's counts."""
        steps, found, counts = fetch(self.guard.unread, figures, self.meter.totals if figures else {})
        alarm = self.guard.alarm
        if bad := self.guard.judge(steps):
            keys_of_ranks = self.world.collect([row["keys"] for row in bad])
            if self.world.is_main:
                whole = zip(*keys_of_ranks, strict=True)
                self.bad_batches.append([row | {"keys": [*chain(*keys)]} for row, keys in zip(bad, whole, strict=True)])
        if self.guard.alarm is not None and alarm is None:
            self.on_alarm(self.guard.alarm)
        return {name: value.item() for name, value in found.items()}, counts

    def _log(self, figures: dict[str, float], counts: dict[int, Tensor]) -> None:
        self.pace.lap(self.step)
        if self.guard.in_a_row:  # the step was skipped: nothing was updated
            figures = {name: value for name, value in figures.items() if not name.startswith("update/")}
        figures |= {"lr": self.rollbacks.lr_factor * learning_rate(self.step - 1, self.train)}
        row: dict[str, Any] = {"step": self.step, "time": self.saver.time_of(self.step), "skipped_steps": self.guard.skipped}
        row |= {"rollbacks": len(self.rollbacks.done)} if self.rollbacks.on else {}
        row |= _finite(figures) | routing_summary(counts)
        raised = self.watch.see(row)
        if not self._rolls_back:  # else these weights are about to be given up
            row |= _finite(self.best.measure(self.step))
        self.pace.start(self.step)
        if self.world.is_main:
            self.metrics.append([row])
            self.routing.append(routing_rows(counts, self.step))
        self.meter.reset()
        self.on_row(row)
        for alarm in raised:
            self.on_alarm(alarm)


def _finite(figures: dict[str, float]) -> dict[str, float]:
    """JSON has no NaN: what is missing, `skipped_steps` tells."""
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def _unless(spoilt: Tensor, sums: dict[int, Tensor]) -> dict[int, Tensor]:
    """Zeros where `spoilt` (a bool scalar) is true: nothing was observed."""
    return {layer: torch.where(spoilt, 0, values) for layer, values in sums.items()}
