"""What a sweep is asked to do, and the pieces of work that it hands out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from limoe.config import Contestant
from limoe.errors import UserError
from limoe.sweep.dimension import Value
from limoe.sweep.outcome import Outcome
from limoe.sweep.points import FINAL_SEEDS
from limoe.sweep.role import Phase
from limoe.sweep.spec import TrialSpec

OBJECTIVES = (("loss",), ("loss", "seconds"))


def check_name(what: str, name: str) -> None:
    """UserError if a directory of runs/sweeps is not to be called so."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UserError(f"the {what}'s name {name!r} is not allowed: letters, digits, dots, - and _ are")


@dataclass(frozen=True)
class SweepSettings:
    """What a sweep is, beside its space. UserError for what cannot be.

    trials: points. seeds: at most so many per point. reports: measurements of the objective on the way, the last at the end.
    storage: an Optuna URL, None for the journal in the sweep's folder. seed: of the sampler.
    """

    name: str
    contestant: Contestant = "limoe"
    sampler: str = "tpe"
    pruner: str = "none"
    trials: int = 60
    seeds: int = 3
    reports: int = 5
    objectives: tuple[str, ...] = ("loss",)
    storage: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_name("sweep", self.name)
        for key in ("trials", "seeds", "reports"):
            if getattr(self, key) < 1:
                raise UserError(f"{key} = {getattr(self, key)} is not allowed: it must be at least 1")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed = {self.seed} is not allowed: 0 to {2**32 - 1} are")
        if self.seeds > FINAL_SEEDS[0]:
            raise UserError(
                f"seeds = {self.seeds} is not allowed: {FINAL_SEEDS[0]} at most, the ones above are for the finalists"
            )
        if self.objectives not in OBJECTIVES:
            raise UserError(f"objectives = {','.join(self.objectives)} is not allowed: loss or loss,seconds are")


@dataclass(frozen=True)
class Work:
    """A trial to run: `limoe trial FOLDER`. number: of its point."""

    number: int
    seed: int
    folder: Path
    spec: TrialSpec
    phase: Phase = "search"


@dataclass(frozen=True)
class Published:
    """A finalist and its trials on fresh seeds (seed -> outcome): the only figures of a sweep to be published."""

    values: dict[str, Value]
    outcomes: dict[int, Outcome]
