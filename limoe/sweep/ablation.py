"""An ablation as a plain object that says which trial runs next and hears how trials ended.

Every variant is trained with every seed, the whole study with one seed before the next, so that a study that is broken off has
something to say of all variants.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from limoe.config import Params
from limoe.errors import UserError
from limoe.paths import Paths
from limoe.sweep.directories import START_PATHS, Directories
from limoe.sweep.planned import ByName, Listed, Planned
from limoe.sweep.points import FINAL_SEEDS
from limoe.sweep.storage import keep_record
from limoe.sweep.variants import Study, numbers, study
from limoe.sweep.work import check_name


@dataclass(frozen=True)
class AblationSettings:
    """only: groups or variants, all if empty. seeds: trainings of each variant, from seed 0. reports: measurements of the loss on
    the way, the last at the end. UserError for what cannot be."""

    name: str = "ablation"
    only: tuple[str, ...] = ()
    seeds: int = 3
    reports: int = 1

    def __post_init__(self) -> None:
        check_name("ablation", self.name)
        if not 1 <= self.seeds <= FINAL_SEEDS[0]:
            raise UserError(f"seeds = {self.seeds} is not allowed: it must be 1 to {FINAL_SEEDS[0]}")
        if self.reports < 1:
            raise UserError(f"reports = {self.reports} is not allowed: it must be at least 1")


class Ablation(Planned):
    """The state of one ablation; opened again, it goes on, and may have been given more seeds or variants."""

    def __init__(self, settings: AblationSettings, params: Params, paths: Paths, data_hash: str) -> None:
        self.settings = settings
        self.folder = paths.sweep(settings.name)
        self.study: Study = study(params, settings.only)
        self._params, self._data_hash = params, data_hash
        self._directories = Directories(paths.root, self.folder, ByName(), params, "limoe", settings.reports, data_hash)
        number_of = numbers(params)
        super().__init__(
            [
                Listed(self._directories, self._directories.work(number_of[one.key], one.values, seed, "ablation"), one.key)
                for seed in range(settings.seeds)
                for one in self.study.variants
            ]
        )
        keep_record(self.folder, self._record(), may_change=("seeds", "only", *START_PATHS))

    @property
    def told(self) -> Study:
        """What the report may tell of: the study without `only`, which decides what runs, and whatever it kept besides."""
        whole = study(self._params)
        known = {one.key for one in whole.variants}
        more = tuple(one for one in self.study.variants if one.key not in known)
        return Study((*whole.variants, *more), whole.omitted | self.study.omitted)

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
            "start_from": self._directories.starts(),
            "training_code": self._directories.code(),
        }
