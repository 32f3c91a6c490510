"""What an alarm does with `train.health.action: rollback`: the training goes on from weights that were good (docs/health.md).

The weights, their averages, the optimiser and the routers' state become those of the last good checkpoint, and the learning rate
is lowered. Steps, data and log go on: the step after a rollback has the next number, the next batch and the next place in the
schedule. So the batches that led to the alarm are never seen again, no row that others know of is taken back, the training costs
what it was to cost, and a rollback is a checkpoint like any other: whatever is killed before it is written comes to it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from limoe.config import TrainParams
from limoe.train.alarm import Alarm
from limoe.train.schedule import learning_rate


@dataclass(frozen=True)
class Rollback:
    """At the end of step `step`, to the weights of step `to`; what was learnt in between is given up, and its batches are left
    out. alarms: why. lr_factor: learning rate from there on over the schedule's. lr: that of the next step."""

    step: int
    to: int
    alarms: tuple[Alarm, ...]
    lr_factor: float
    lr: float

    def covers(self, step: int) -> bool:
        """Whether what this step taught was given up."""
        return self.to < step <= self.step

    def __str__(self) -> str:
        """For people.

        >>> print(str(Rollback(120, 60, (Alarm("diverged", 120, "the loss is 9.10"),), 0.5, 0.001)).replace("; ", ";\n"))
        at step 120 back to the weights of step 60 (diverged: the loss is 9.10);
        60 batches are left out, and the learning rate is 0.5 times the schedule's
        """
        why = "; ".join(f"{alarm.name}: {alarm.evidence}" for alarm in self.alarms)
        return (
            f"at step {self.step} back to the weights of step {self.to} ({why}); {self.step - self.to} batches are left out, and "
            f"the learning rate is {self.lr_factor:g} times the schedule's"
        )


class Rollbacks:
    """The rollbacks of a training so far, in their order, and whether and where to there is another one."""

    def __init__(self, train: TrainParams) -> None:
        self.train = train
        self.done: list[Rollback] = []
        self._good: list[int] = []  # steps of checkpoints since the last rollback whose window was healthy

    @property
    def on(self) -> bool:
        """Whether alarms roll this training back."""
        return self.train.health.action == "rollback"

    def left(self, step: int) -> bool:
        """Whether an alarm at the end of this step does: none at that of the last, behind which nothing is learnt."""
        return self.on and len(self.done) < self.train.health.rollback.most and step < self.train.steps

    @property
    def lr_factor(self) -> float:
        """Learning rate over the schedule's."""
        return self.done[-1].lr_factor if self.done else 1.0

    def good(self, step: int) -> int:
        """The step whose checkpoint an alarm at `step` goes back to: the newest that was healthy and is older than the window
        which was judged; if there is none since the last rollback, that rollback's own, or the one before the first step."""
        return max((good for good in self._good if good <= step - self.train.health.window), default=self._since)

    def saving(self, step: int, healthy: bool) -> tuple[int, ...]:
        """A checkpoint of this step is to be saved; steps of older ones that an alarm after it may go back to.

        Only those at every `train.checkpoints.every` steps can be good: where minutes have passed or a signal came there are
        others, on which no result may depend.
        """
        if not self.left(step):
            return ()
        if healthy and step % self.train.checkpoints.every == 0:
            self._good.append(step)
        oldest = self.good(step)
        self._good = [good for good in self._good if good >= oldest]
        return (oldest, *self._good)

    def add(self, step: int, alarms: Sequence[Alarm]) -> Rollback:
        """Decide on one at the end of this step."""
        factor = self.lr_factor * self.train.health.rollback.lr_factor
        rollback = Rollback(step, self.good(step), tuple(alarms), factor, factor * learning_rate(step, self.train))
        self.done.append(rollback)
        self._good = []
        return rollback

    def state_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"done": [asdict(rollback) for rollback in self.done], "good": self._good}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        alarms = [tuple(Alarm(**alarm) for alarm in one["alarms"]) for one in state["done"]]
        self.done = [Rollback(**one | {"alarms": why}) for one, why in zip(state["done"], alarms, strict=True)]
        self._good = list(state["good"])

    @property
    def _since(self) -> int:
        return self.done[-1].step if self.done else 0
