"""Saving a training and bringing it back: its journals and its checkpoints, and when others may know of a row."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from torch import Tensor, nn

from limoe.config import TrainParams
from limoe.errors import UserError
from limoe.train.checkpoint import Checkpoint, Checkpoints
from limoe.train.journal import Journal
from limoe.train.optim import Optimizers, load_optimizer_tensors, optimizer_tensors
from limoe.world import ALONE, World

BAD_BATCHES = "bad_batches.jsonl"  # in the folder: step, loss, gradient norm and keys of each batch whose step was skipped
MINUTE = 60  # seconds


class Stateful(Protocol):
    """What a checkpoint holds a part of."""

    def state_dict(self) -> Mapping[str, Any]:
        """Of this moment: tensors by name, or JSON-able values."""

    def load_state_dict(self, state: dict[str, Any], /) -> object:
        """Go back to such a moment."""


@dataclass(frozen=True)
class OptimizerState:
    """An optimiser's state, by the names of the model's parameters."""

    optimizer: Optimizers
    model: nn.Module

    def state_dict(self) -> dict[str, Tensor]:
        """Empty before the first step."""
        return optimizer_tensors(self.optimizer, self.model)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state_dict`."""
        load_optimizer_tensors(self.optimizer, self.model, state)


class Saver:
    """Keeps a training in `folder`. A context manager: no write outlives its body.

    tensors, parts: what has a state, of tensors or JSON-able, by its name in a checkpoint. on_rows is called with the rows of
    metrics since the last call (a resumed training begins with all of them), once a checkpoint covers them: others may yet be
    computed again. step: of the newest checkpoint. world: of its ranks, which all call the same methods and see the same folder,
    the main one alone writes.
    """

    def __init__(
        self,
        folder: Path,
        train: TrainParams,
        tensors: Mapping[str, Stateful],
        parts: Mapping[str, Stateful],
        on_rows: Callable[[list[dict[str, Any]]], None],
        world: World = ALONE,
    ) -> None:
        self.train, self.tensors, self.parts, self.on_rows, self.world = train, tensors, parts, on_rows, world
        self.checkpoints = Checkpoints(folder / "checkpoints", train.checkpoints.keep)
        self.metrics = Journal(folder / "metrics.jsonl")
        self.routing = Journal(folder / "routing.jsonl")
        self.bad_batches = Journal(folder / BAD_BATCHES)
        self.step = 0
        self._times: dict[int, int] = {}  # of rows that are computed again
        self._handed_out = 0  # bytes of the metrics' journal that on_rows has had from this process
        self._unsettled = False  # whether something was saved that on_rows does not know of
        self._saved_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.checkpoints.wait()

    def resume(self) -> int:
        """Go back to the newest undamaged checkpoint, or to the start if there is none; the number of steps done there."""
        checkpoint = self._newest()
        if self.world.is_main:
            self._cut([0] * len(self._journals) if checkpoint is None else checkpoint.state["journals"])
        if checkpoint is not None:
            self._load(checkpoint, (*self.tensors, *self.parts))
            self.step, self._unsettled = checkpoint.step, True
        return self.step

    def due(self, step: int) -> bool:
        """Whether a checkpoint is to be saved at the end of this step."""
        when = self.train.checkpoints
        late = when.minutes is not None and time.monotonic() - self._saved_at >= MINUTE * when.minutes
        if when.minutes is not None:
            late = bool(self.world.most(late))  # clocks differ
        return late or step % when.every == 0 or step == self.train.steps

    def save(self, step: int, needs: tuple[int, ...] = ()) -> None:
        """Begin to write a checkpoint of this moment, the end of step `step`, once the one before is written. needs: steps of
        older ones that it refers to."""
        self.settle()
        tensors = {f"{part}/{name}": tensor for part, one in self.tensors.items() for name, tensor in one.state_dict().items()}
        state: dict[str, Any] = {name: part.state_dict() for name, part in self.parts.items()}
        state["journals"] = [journal.length for journal in self._journals]
        if self.world.is_main:
            self.checkpoints.save(Checkpoint(step, tensors, state, needs), before=self._sync)
        self.step, self._unsettled, self._saved_at = step, True, time.monotonic()

    def poll(self) -> None:
        """Between two steps: if the last checkpoint has been written since, settle it."""
        if self._unsettled and not self.checkpoints.writing:
            self.settle()

    def settle(self) -> None:
        """Wait for the last checkpoint, whose failure is raised here, and hand out the rows that it covers."""
        if self.world.is_main:
            self.checkpoints.wait()
            self._hand_out()
        self._unsettled = False

    def put_back(self, step: int, names: Iterable[str]) -> None:
        """Put what has these names back to what it was at the end of that step; UserError if its checkpoint is damaged."""
        self.checkpoints.wait()
        self.world.barrier()  # it is written
        self._load(self.checkpoints.read(step), names)
        self.world.barrier()  # all have read it: it may go

    def time_of(self, step: int) -> int:
        """ms since 1970, for this step's row: for one that is computed again what it was before, as then it is the same row."""
        return self._times.get(step, int(time.time() * 1000))

    @property
    def _journals(self) -> tuple[Journal, ...]:
        return self.metrics, self.routing, self.bad_batches

    def _newest(self) -> Checkpoint | None:
        """The newest undamaged checkpoint; the main rank says which that is."""
        checkpoint = None
        if self.world.is_main:
            self.checkpoints.clean()
            checkpoint = self.checkpoints.latest()
        step = self.world.most(-1 if checkpoint is None else checkpoint.step)
        return checkpoint if self.world.is_main or step < 0 else self.checkpoints.read(step)

    def _cut(self, lengths: list[int]) -> None:
        for journal, length in zip(self._journals, lengths, strict=True):
            if journal.length < length:
                raise UserError(
                    f"{journal.path}: has {journal.length} bytes, and had {length} when the newest checkpoint was saved: put "
                    "back what is missing, or remove its folder to train anew"
                )
        with suppress(ValueError):  # a power failure may leave anything behind what was made durable
            self._times = {row["step"]: row["time"] for row in self.metrics.rows(lengths[0])}
        for journal, length in zip(self._journals, lengths, strict=True):
            journal.cut(length)

    def _hand_out(self) -> None:
        rows, end = [], self._handed_out
        for row, after in self.metrics.read(end):
            if row["step"] > self.step:
                break
            rows.append(row)
            end = after
        if rows:
            self.on_rows(rows)
        self._handed_out = end

    def _load(self, checkpoint: Checkpoint, names: Iterable[str]) -> None:
        for name in names:
            if name in self.tensors:
                self.tensors[name].load_state_dict(_tensors_of(name, checkpoint))
            else:
                self.parts[name].load_state_dict(checkpoint.state[name])

    def _sync(self) -> None:
        for journal in self._journals:
            journal.sync()


def _tensors_of(part: str, checkpoint: Checkpoint) -> dict[str, Tensor]:
    prefix = f"{part}/"
    return {name.removeprefix(prefix): t for name, t in checkpoint.tensors.items() if name.startswith(prefix)}
