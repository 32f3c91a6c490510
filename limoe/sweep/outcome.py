"""How a trial ended. A failure is a result like any other: it has a kind, a step and the evidence.

ok: finished, and no alarm was raised. diverged: the loss blew up, in training or where it was measured; it was stopped there.
collapsed: finished, and a modality collapsed in a layer on the way. unhealthy: finished, with another alarm. oom: not enough
memory. pruned: stopped because others did better by then; nobody knows how it would have ended. killed: by a signal; run again it
goes on from its last checkpoint. error: a mistake in the settings, or a bug.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from limoe.errors import UserError
from limoe.files import read_json, write_json

if TYPE_CHECKING:
    from limoe.train.health import Alarm

Kind = Literal["ok", "diverged", "collapsed", "unhealthy", "oom", "pruned", "killed", "error"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FILE = "outcome.json"
COLLAPSE = re.compile(r"(text|image)-collapse@block(\d+)")


@dataclass(frozen=True)
class Outcome:
    """kind: one of KINDS. step: optimiser steps taken of steps_planned. evidence: a sentence. modality, layer: of a
    collapse. alarms: all that were raised (name, step, evidence). loss, scores: the objective and what stands beside it, at the
    end, or in the last report of what was pruned; else None and {}. seconds: of all training steps, reports not counted."""

    kind: Kind
    step: int
    evidence: str
    steps_planned: int
    seconds: float = 0.0
    modality: str | None = None
    layer: int | None = None
    alarms: list[dict[str, Any]] = field(default_factory=list)
    loss: float | None = None
    scores: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"{self.kind!r} is no kind of outcome; there are {', '.join(KINDS)}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `Outcome(**...)` is the inverse."""
        return asdict(self)


def read_outcome(folder: Path) -> Outcome | None:
    """How the trial in `folder` ended, None if it has not. UserError if the file is broken."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        return Outcome(**read_json(path))
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: not the outcome of a trial ({error}); remove it, and the trial runs again") from None


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """Write it down, whole or not at all."""
    write_json(folder / FILE, outcome.to_dict())


def judge(alarms: Sequence[Alarm]) -> tuple[Kind, str, str | None, int | None]:
    """(kind, evidence, modality, layer) of a training that ended with these alarms, in the order in which they were raised.

    The worst one names it: a divergence, else the first collapse, else the first of the others.
    """
    if not alarms:
        return "ok", "finished, and no alarm was raised", None, None
    diverged = next((alarm for alarm in alarms if alarm.name == "diverged"), None)
    if diverged is not None:
        return "diverged", f"diverged at step {diverged.step}: {diverged.evidence}", None, None
    for alarm in alarms:
        if found := COLLAPSE.fullmatch(alarm.name):
            return "collapsed", f"{alarm.name} at step {alarm.step}: {alarm.evidence}", found[1], int(found[2])
    return "unhealthy", "; ".join(f"{alarm.name} at step {alarm.step}: {alarm.evidence}" for alarm in alarms), None, None
