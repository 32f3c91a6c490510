"""What a sweep, an ablation and further seeds tell while they run, and a sweep at its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from limoe.sweep.outcome import Outcome
from limoe.sweep.planned import Planned
from limoe.sweep.points import FINAL_SEEDS
from limoe.sweep.work import Published, Work

FINALISTS = 2
MINUTE = 60  # seconds


class Progress:
    """A line for each trial that ends: which, how, the best so far, and an estimate of the minutes left.

    points: of the whole search. before: rows of the trials' table, from runs before this one.
    """

    def __init__(self, points: int, before: Sequence[Mapping[str, Any]], clock: Callable[[], float] = time.monotonic) -> None:
        self._points = points
        self._clock = clock
        self._start = clock()
        self._here = 0
        self._best: float | None = None
        self._numbers: set[int] = set()
        self._searched = self._final = 0
        for row in before:
            self._count(row["point"], row["phase"], row["kind"], row["loss"])

    def _count(self, point: int, phase: str, kind: str, loss: float | None) -> None:
        if phase == "final":
            self._final += 1
        else:
            self._numbers.add(point)
            self._searched += 1
        if kind == "ok" and loss is not None:
            self._best = loss if self._best is None else min(self._best, loss)

    @property
    def left(self) -> int:
        """Trials still to come, about: as many a point as so far, and two finalists on fresh seeds."""
        share = self._searched / len(self._numbers) if self._numbers else 1.0
        return round(max(0, self._points - len(self._numbers)) * share) + max(0, FINALISTS * len(FINAL_SEEDS) - self._final)

    def line(self, work: Work, outcome: Outcome) -> str:
        """The line of a trial that has just ended."""
        self._here += 1
        self._count(work.number, work.phase, outcome.kind, outcome.loss)
        done, left = self._searched + self._final, self.left
        minutes = (self._clock() - self._start) / self._here * left / MINUTE
        best = "none yet" if self._best is None else f"{self._best:.3f}"
        which = f"point {work.number} seed {work.seed}"
        return f"{done} of about {done + left}: {which}: {told(outcome)}; best {best}; about {minutes:.1f} min left"


class PlannedProgress:
    """Likewise for a study whose trials are known beforehand."""

    def __init__(self, study: Planned, clock: Callable[[], float] = time.monotonic) -> None:
        self._study, self._clock = study, clock
        self._start, self._before = clock(), study.ended

    def line(self, work: Work, outcome: Outcome) -> str:
        """The line of a trial that has just ended."""
        done, planned = self._study.ended, self._study.planned
        minutes = (self._clock() - self._start) / max(1, done - self._before) * (planned - done) / MINUTE
        which = f"{self._study.group_of(work)} seed {work.seed}"
        return f"{done} of {planned}: {which}: {told(outcome)}; about {minutes:.0f} min left"


def told(outcome: Outcome) -> str:
    """How a trial ended, with what it reached, and why if not well."""
    loss = "" if outcome.loss is None else f", loss {outcome.loss:.3f}"
    why = "" if outcome.kind == "ok" else f" ({outcome.evidence})"
    return f"{outcome.kind}{loss}{why}"


def conclusion(published: Sequence[Published], name: str, refused: Mapping[int, str]) -> str:
    """The finalists with their figures on fresh seeds, as Markdown, what was not run, and what to do next.

    refused: why, by the number of the point.
    """
    lines = []
    for title, one in zip(("robust best", "runner-up"), published, strict=False):
        recipe = ", ".join(
            f"{key} = {value:.4g}" if isinstance(value, float) else f"{key} = {'null' if value is None else value}"
            for key, value in one.values.items()
        )
        good = [outcome.loss for outcome in one.outcomes.values() if outcome.kind == "ok" and outcome.loss is not None]
        figures = f"loss {fmean(good):.3f}" if good else "no loss"
        figures += f" (standard deviation {stdev(good):.3f})" if len(good) > 1 else ""
        lines.append(f"- {title}: {recipe}: {figures}, {len(good)} of {len(one.outcomes)} fresh seeds ok")
    found = lines or ["- no recipe: no point finished without an alarm"]
    if refused:
        found.append(
            f"- not run: {len(refused)} points whose values do not fit together; the first: {next(iter(refused.values()))}"
        )
    return "\n".join([*found, f"- next: limoe sensitivity {name}"])
