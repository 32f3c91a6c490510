"""What a training is watched for: a figure that leaves the range of healthy recipes raises a named alarm (docs/health.md).

The watch judges rows of metrics.jsonl and nothing else, so that a finished training can be judged again. What guards single steps
is `limoe.train.guard`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from statistics import fmean
from typing import Any

from limoe.config import TrainParams
from limoe.model.tokens import MODALITIES
from limoe.train.alarm import Alarm, Stopped
from limoe.train.chance import guessing_loss

__all__ = ["Alarm", "Stopped", "Watch", "alarms_of"]

MAX_SCALE = 100.0  # CLIP's bound on the learned logit scale
WATCHED = ("contrastive", "logit_scale")
WATCHED_IN_BLOCKS = ("placed", "lost", "effective_experts", "dead_experts")


class Watch:
    """Judges a training row by row, on means over `train.health.window` steps; raises each name once.

    experts: E, None without routing. The same rows give the same alarms, whatever interruptions lie between them. All but
    a divergence is judged on windows that lie wholly behind the grace: a training with no room for one there is not judged,
    unless it went back (`restart`): then the last step is judged on what rows there are.
    """

    def __init__(self, train: TrainParams, experts: int | None) -> None:
        self.train, self.experts = train, experts
        self.alarms: list[Alarm] = []
        self._recent: list[dict[str, float]] = []
        self._lowest: float | None = None  # loss of all rows so far: a fresh network's may be far above that of guessing
        self._since = 0  # the step from which the window has been filled
        self._lost = 0  # steps that rollbacks took from the weights

    def see(self, row: Mapping[str, Any]) -> list[Alarm]:
        """The alarms that this row of metrics.jsonl raises, a name only once."""
        step, window = int(row["step"]), self.train.health.window
        watched = {name: float(value) for name, value in row.items() if name in WATCHED or _in_block(name)}
        self._recent = [old for old in self._recent if old["step"] > step - window] + [{"step": step} | watched]
        if "contrastive" in watched:
            self._lowest = min(watched["contrastive"], watched["contrastive"] if self._lowest is None else self._lowest)
        known = {alarm.name for alarm in self.alarms}
        new = [alarm for alarm in self._found(step) if alarm.name not in known]
        self.alarms += new
        return new

    @property
    def healthy(self) -> bool:
        """Whether the last row's window is full, and would raise no alarm if the grace were over."""
        step = int(self._recent[-1]["step"]) if self._recent else self._since
        return step - self._since >= self.train.health.window and next(self._judge(step, settled=True), None) is None

    def restart(self, step: int, to: int) -> None:
        """At the end of step `step` the training went back to the checkpoint of step `to`, as this watch has: the window begins
        anew, and the grace lasts until the weights have had its steps."""
        self._recent, self._since = [], step
        self._lost += step - to

    def state_dict(self) -> dict[str, Any]:
        """JSON-able."""
        alarms = [asdict(alarm) for alarm in self.alarms]
        numbers = {"lowest": self._lowest, "since": self._since, "lost": self._lost}
        return {"recent": self._recent, "alarms": alarms} | numbers

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._recent, self._lowest = list(state["recent"]), state["lowest"]
        self._since, self._lost = state["since"], state["lost"]
        self.alarms = [Alarm(**alarm) for alarm in state["alarms"]]

    def _found(self, step: int) -> Iterator[Alarm]:
        """None before the window is full. A training that went back has raised its alarm: at its last step, behind which no other
        can come, it must have recovered, grace or no grace."""
        window = self.train.health.window
        last = self._lost > 0 and step == self.train.steps
        if last and "contrastive" not in self._recent[-1]:
            yield Alarm("diverged", step, "the loss of the last step is not finite")
        elif last or step - self._since >= window:
            yield from self._judge(step, last or step - self._lost - window >= self.train.health.grace * self.train.steps)

    def _judge(self, step: int, settled: bool) -> Iterator[Alarm]:
        """Causes before what follows from them. settled: whether the window lies behind the grace."""
        health, means = self.train.health, _means(self._recent)
        loss, guess = means.get("contrastive", 0.0), guessing_loss(self.train.loss, self.train.batch)
        price = f"the {guess:.2f} that guessing among {self.train.batch} pairs costs"
        diverged = self._has_risen(health.diverged, guess)
        if diverged:
            rise = (
                f"the contrastive loss is {loss:.2f} and was {self._lowest:.2f} before, above {health.diverged:g} times {price}"
            )
            yield Alarm("diverged", step, rise)
        if not settled:
            return
        for block, figures in _by_block(means).items():
            yield from self._judge_block(step, block, figures)
        scale = min(means.get("logit_scale", 0.0), MAX_SCALE)
        if scale > health.logit_scale:
            evidence = f"the learned logit scale is {scale:.1f}, above {health.logit_scale:g}; its bound is {MAX_SCALE:g}"
            yield Alarm("temperature-runaway", step, evidence)
        if loss > health.chance * guess and not diverged:
            yield Alarm("loss-at-chance", step, f"the contrastive loss is {loss:.2f}, above {health.chance:g} times {price}")

    def _has_risen(self, factor: float, guess: float) -> bool:
        """Whether the loss was above `factor` times that of guessing, and its own lowest, all through the window: a fresh network
        may begin higher, and a single batch may cost more."""
        losses = [row["contrastive"] for row in self._recent if "contrastive" in row]
        return self._lowest is not None and min(losses, default=0.0) > factor * max(guess, self._lowest)

    def _judge_block(self, step: int, block: int, means: Mapping[str, float]) -> Iterator[Alarm]:
        for modality in MODALITIES:
            if reasons := self._collapse(modality, means):
                yield Alarm(f"{modality}-collapse@block{block}", step, f"in block {block} {' and '.join(reasons)}")
        dead = means.get("dead_experts", 0.0)
        if dead > self.train.health.dead:
            evidence = f"no token chose {dead:.0%} of the experts of block {block}, more than {self.train.health.dead:.0%}"
            yield Alarm(f"dead-experts@block{block}", step, evidence)

    def _collapse(self, modality: str, means: Mapping[str, float]) -> list[str]:
        """What says that a modality has collapsed in a block. Experts that choose place all that they chose: tokens are lost."""
        health, reasons = self.train.health, []
        placed = min(means.get(f"{modality}_placed", 1.0), 1 - means.get(f"{modality}_lost", 0.0))
        if placed < health.placed:
            reasons.append(f"{placed:.0%} of the {modality} choices found a place, less than {health.placed:.0%}")
        fewest = min(2.0, 1 + health.effective * ((self.experts or 1) - 1))
        effective = means.get(f"{modality}_effective_experts", fewest)
        if effective < fewest:
            reasons.append(f"{modality} uses {effective:.2f} of {self.experts} experts, fewer than {fewest:.2f}")
        return reasons


def alarms_of(rows: Iterable[Mapping[str, Any]], train: TrainParams, experts: int | None) -> list[Alarm]:
    """The alarms of a training, from the rows of its metrics.jsonl."""
    watch = Watch(train, experts)
    for row in rows:
        watch.see(row)
    return watch.alarms


def _means(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """By name, over the rows that have it: that of a skipped step lacks its losses."""
    values = defaultdict(list)
    for row in rows:
        for name, value in row.items():
            values[name].append(value)
    return {name: fmean(found) for name, found in values.items()}


def _in_block(name: str) -> bool:
    return name.startswith("block") and name.endswith(WATCHED_IN_BLOCKS)


def _by_block(figures: Mapping[str, float]) -> dict[int, dict[str, float]]:
    """What is named `blockN/NAME` as {N: {NAME: figure}}, by N."""
    blocks: defaultdict[int, dict[str, float]] = defaultdict(dict)
    for name, figure in figures.items():
        block, slash, rest = name.partition("/")
        if slash:
            blocks[int(block.removeprefix("block"))][rest] = figure
    return dict(sorted(blocks.items()))
