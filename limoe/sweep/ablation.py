"""An ablation as a plain object of the shape of a Sweep: it says which trial runs next and hears how trials ended.

Every variant is trained with every seed, the whole study with one seed before the next, so that a study that is broken off has
something to say of all variants. As in a sweep the trials' directories are the truth: opened again it runs what has no outcome.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from limoe.config import Contestant, Params
from limoe.errors import UserError
from limoe.paths import Paths
from limoe.sweep.directories import Directories
from limoe.sweep.outcome import Outcome
from limoe.sweep.points import FINAL_SEEDS
from limoe.sweep.role import Role, write_role
from limoe.sweep.storage import keep_record
from limoe.sweep.variants import Study, study, with_values
from limoe.sweep.work import Work


@dataclass(frozen=True)
class AblationSettings:
    """only: groups or variants, all if empty. seeds: trainings of each variant, from seed 0. reports: measurements of the loss on
    the way, the last at the end. UserError for what cannot be."""

    name: str = "ablation"
    only: tuple[str, ...] = ()
    seeds: int = 3
    reports: int = 1

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise UserError(f"the ablation's name {self.name!r} is not allowed: letters, digits, dots, - and _ are")
        if not 1 <= self.seeds <= FINAL_SEEDS[0]:
            raise UserError(f"seeds = {self.seeds} is not allowed: it must be 1 to {FINAL_SEEDS[0]}")
        if self.reports < 1:
            raise UserError(f"reports = {self.reports} is not allowed: it must be at least 1")


class Ablation:
    """The state of one ablation; opened again, it goes on, and may have been given more seeds or variants."""

    def __init__(self, settings: AblationSettings, params: Params, paths: Paths, data_hash: str) -> None:
        self.settings = settings
        self.folder = paths.sweep(settings.name)
        self.study: Study = study(params, settings.only)
        self._params, self._data_hash = params, data_hash
        self._directories = Directories(self.folder, _Resolver(), params, "limoe", settings.reports, data_hash)
        numbers = {one.key: number for number, one in enumerate(study(params).variants)}  # the same whatever `only` says
        self._keys = {numbers[one.key]: one.key for one in self.study.variants}
        self._works = [
            self._directories.work(numbers[one.key], one.values, seed, "ablation")
            for seed in range(settings.seeds)
            for one in self.study.variants
        ]
        keep_record(self.folder, self._record(), may_change=("seeds", "only"))

    def next(self) -> Work | None:
        """A trial to start now; None if all others have ended or run."""
        work = next((work for work in self._works if self._directories.ready(work)), None)
        if work is None:
            return None
        write_role(work.folder, Role(work.number, "ablation", self._keys[work.number]))
        return self._directories.begin(work)

    def watch(self, running: list[Work]) -> None:
        """Nothing to do: an ablation stops no trial early."""

    def finish(self, work: Work, outcome: Outcome) -> None:
        """Take in how a trial ended; a killed one, and one with an error, is handed out once more."""
        self._directories.end(work, outcome)
        self._directories.outcome(work)

    def retry(self, work: Work) -> None:
        """Whoever ran the trial has gone: hand it out again unless it left an outcome."""
        self._directories.end(work, None)

    @property
    def done(self) -> bool:
        """Whether every trial has ended."""
        return self.ended == self.planned

    @property
    def ended(self) -> int:
        """Trials that have ended."""
        return sum(self._directories.outcome(work) is not None for work in self._works)

    @property
    def planned(self) -> int:
        """Trials in all."""
        return len(self._works)

    def variant_of(self, work: Work) -> str:
        """The key of the variant that the trial belongs to."""
        return self._keys[work.number]

    def _record(self) -> dict[str, Any]:
        settings = asdict(self.settings)
        seeds, only = settings.pop("seeds"), settings.pop("only")
        params = self._params.model_dump(mode="json", exclude={"machine", "sweep"})
        return {
            "kind": "ablation",
            "settings": settings,
            "seeds": seeds,
            "only": list(only),
            "params": params,
            "data": self._data_hash,
            "training_code": self._directories.code(),
        }


class _Resolver:
    """Makes parameters of a variant's values."""

    def resolve(self, params: Params, values: Mapping[str, Any], seed: int, contestant: Contestant) -> Params:
        del contestant
        return with_values(params, {**values, "train.seed": seed})
