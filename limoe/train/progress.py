"""Progress of a training for people: a bar on a terminal, else a line every tenth of the way."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

from limoe.config import TrainParams
from limoe.train.health import Alarm
from limoe.train.rollback import Rollback

LINES = 10


class Progress:
    """A context manager; `start` tells where the training begins, `row` is called with each new row of metrics."""

    def __init__(self, name: str, train: TrainParams) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        columns = (TextColumn("train {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._console = Console()
        self._bars = Bars(*columns, TextColumn("{task.fields[figures]}"), console=self._console)
        self._bars.disable = not self._console.is_terminal
        self._task = self._bars.add_task(name, total=train.steps, figures="")
        self._name, self._steps = name, train.steps
        self._begun = (0, time.monotonic())
        self._next_line = 0.0

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()

    def start(self, step: int) -> None:
        """The training begins at this step; a resumed one says so."""
        self._begun = (step, time.monotonic())
        self._bars.update(self._task, completed=step)
        if step:
            self._console.print(f"train {self._name}: continuing from step {step} of {self._steps}")

    def row(self, row: dict[str, Any]) -> None:
        """Show how far it is and how it fares."""
        placed = [value for name, value in row.items() if name.endswith("/text_placed")]
        figures = f"loss {row.get('contrastive', float('nan')):.2f}" + (f", text placed {min(placed):.0%}" if placed else "")
        self._bars.update(self._task, completed=row["step"], figures=figures)
        if self._bars.disable and row["step"] >= self._next_line:
            self._next_line = row["step"] + self._steps / LINES
            self._console.print(f"train {self._name}: step {row['step']} of {self._steps}, {figures}, {self._left(row['step'])}")

    def alarm(self, alarm: Alarm) -> None:
        """Say so in one line, above the bar."""
        self.say(f"warning: train {self._name}: {alarm.name} at step {alarm.step}: {alarm.evidence}; see docs/health.md")

    def rollback(self, rollback: Rollback) -> None:
        """Say so in one line, above the bar."""
        self.say(f"rollback: train {self._name}: {rollback}; see docs/health.md")

    def say(self, line: str) -> None:
        """One line, above the bar."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _left(self, step: int) -> str:
        first, began = self._begun
        seconds = (time.monotonic() - began) / max(1, step - first) * (self._steps - step)
        return f"about {seconds:.0f} s left"
