"""An ablation as a plain object of the shape of a Sweep: it says which trial runs next and hears how trials ended.

Every variant is trained with every seed, the whole study with one seed before the next, so that a study that is broken off has
something to say of all variants. As in a sweep the trials' directories are the truth: opened again it runs what has no outcome.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from limoe.config import Params
from limoe.errors import UserError
from limoe.paths import Paths
from limoe.sweep.outcome import FILE as OUTCOME
from limoe.sweep.outcome import Outcome, read_outcome, write_outcome
from limoe.sweep.points import FINAL_SEEDS, RETRIED
from limoe.sweep.role import Role, write_role
from limoe.sweep.storage import keep_record
from limoe.sweep.study import FIRST_OUTCOME, Work
from limoe.sweep.trial import TrialSpec, create
from limoe.sweep.variants import Study, study, with_values


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
        every = [one.key for one in study(params).variants]
        self._numbers = {key: number for number, key in enumerate(every)}  # the same whatever `only` says
        self._works = [self._work(key, seed) for seed in range(settings.seeds) for key in self._chosen()]
        keep_record(self.folder, self._record(), may_change=("seeds", "only"))
        self._running: set[int] = set()
        self._ended: dict[int, Outcome] = {}

    def next(self) -> Work | None:
        """A trial to start now; None if all others have ended or run."""
        for place, work in enumerate(self._works):
            if place not in self._running and self._outcome(place) is None:
                create(work.folder, work.spec)
                write_role(work.folder, Role(work.number, "ablation", self.group_of(work)))
                self._running.add(place)
                return work
        return None

    def watch(self, running: list[Work]) -> None:
        """Nothing to do: an ablation stops no trial early."""

    def finish(self, work: Work, outcome: Outcome) -> None:
        """Take in how a trial ended; a killed one, and one with an error, is handed out once more."""
        if read_outcome(work.folder) is None:
            write_outcome(work.folder, outcome)
        self.retry(work)

    def retry(self, work: Work) -> None:
        """Whoever ran the trial has gone: hand it out again unless it left an outcome."""
        self._running.discard(self._works.index(work))

    @property
    def done(self) -> bool:
        """Whether every trial has ended."""
        return all(self._outcome(place) is not None for place in range(len(self._works)))

    @property
    def planned(self) -> int:
        """Trials in all."""
        return len(self._works)

    def group_of(self, work: Work) -> str:
        """The key of the variant that the trial belongs to."""
        return next(key for key, number in self._numbers.items() if number == work.number)

    def _chosen(self) -> list[str]:
        return [one.key for one in self.study.variants]

    def _work(self, key: str, seed: int) -> Work:
        variant = next(one for one in self.study.variants if one.key == key)
        resolved = with_values(self._params, {**variant.values, "train.seed": seed})
        spec = TrialSpec("limoe", variant.values, seed, resolved.model_dump(mode="json"), self.settings.reports)
        folder = self.folder / "trials" / spec.fingerprint(self._data_hash)
        return Work(self._numbers[key], seed, folder, spec, "ablation")

    def _outcome(self, place: int) -> Outcome | None:
        """How the trial ended; None if it runs, has not, or is to be retried."""
        if place in self._running:
            return None
        folder = self._works[place].folder
        if place not in self._ended and (outcome := read_outcome(folder)) is not None:
            if outcome.kind in RETRIED and not (folder / FIRST_OUTCOME).exists():
                (folder / OUTCOME).replace(folder / FIRST_OUTCOME)
                return None
            self._ended[place] = outcome
        return self._ended.get(place)

    def _record(self) -> dict[str, Any]:
        settings = asdict(self.settings)
        seeds, only = settings.pop("seeds"), settings.pop("only")
        params = self._params.model_dump(mode="json", exclude={"machine", "sweep"})
        code = self._works[0].spec.fingerprint(self._data_hash)
        return {
            "kind": "ablation",
            "settings": settings,
            "seeds": seeds,
            "only": list(only),
            "params": params,
            "data": self._data_hash,
            "training_code": code,
        }
