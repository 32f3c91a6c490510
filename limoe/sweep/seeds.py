"""Further seeds of the pipeline's own trainings: does what it found outlast the luck of a training?

Each contestant is trained as params.yaml says, with the seeds after `train.seed`; the pipeline's own training is the first. The
models stay, and compare.yaml, an overlay of params.yaml, names them as further trainings of their contestant (limoe.evals.seeds).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from limoe.config import CONTESTANTS, Contestant, Params
from limoe.errors import UserError, did_you_mean
from limoe.files import write_text
from limoe.paths import Paths
from limoe.sweep.directories import START_PATHS, Directories
from limoe.sweep.planned import ByName, Listed, Planned
from limoe.sweep.storage import keep_record
from limoe.sweep.work import Work, check_name

OVERLAY = "compare.yaml"
COMMENT = "# Further trainings of the contestants: limoe params --overlay THIS, then dvc repro (docs/comparison.md).\n"


@dataclass(frozen=True)
class SeedsSettings:
    """seeds: trainings of each contestant, the pipeline's own among them. UserError for what cannot be."""

    name: str = "seeds"
    contestants: tuple[str, ...] = CONTESTANTS
    seeds: int = 3

    def __post_init__(self) -> None:
        check_name("study", self.name)
        if self.seeds < 2:
            raise UserError(f"seeds = {self.seeds} is not allowed: at least 2, of which dvc repro trains the first")
        for one in self.contestants:
            if one not in CONTESTANTS:
                hint = did_you_mean(one, CONTESTANTS) or f"; there are {', '.join(CONTESTANTS)}"
                raise UserError(f"contestant {one!r}: no such contestant{hint}")


class Seeds(Planned):
    """The state of such trainings; opened again, they go on, and there may be more seeds or contestants."""

    def __init__(self, settings: SeedsSettings, params: Params, paths: Paths, data_hash: str) -> None:
        """UserError if the contestants' models would be those of other steps than the pipeline's."""
        if params.train.export != "last":
            raise UserError(
                f"train.export = {params.train.export} is not allowed with seeds: they keep the weights of the last step"
            )
        self.settings, self._root = settings, paths.root
        self.folder = paths.sweep(settings.name)
        directories = {
            name: Directories(paths.root, self.folder, ByName(), params, name, 1, data_hash, keep_models=True)
            for name in CONTESTANTS
        }
        first = params.train.seed
        super().__init__(
            [
                Listed(own, own.work(number, {}, seed, "seeds"), name)
                for seed in range(first + 1, first + settings.seeds)
                for number, (name, own) in enumerate(directories.items())
                if name in settings.contestants
            ]
        )
        record = self._record(params, data_hash, directories)
        keep_record(self.folder, record, may_change=("settings.seeds", "settings.contestants", *START_PATHS))

    def write_overlay(self) -> Path:
        """Name the models of all trainings that reached their end in compare.yaml; returns its path."""
        named = [
            f"    {self.group_of(work)}-seed{work.seed}: "
            f"{{path: {work.folder.relative_to(self._root).as_posix()}, seed_of: {self.group_of(work)}}}\n"
            for work in self.works
            if self._whole(work) and (work.folder / "model").is_dir()
        ]
        path = self.folder / OVERLAY
        write_text(path, f"{COMMENT}compare:\n  models:{'' if named else ' {}'}\n{''.join(named)}")
        return path

    def losses(self) -> dict[str, list[float]]:
        """Of each contestant the validation losses of its trainings that have one, by seed."""
        found: dict[str, list[float]] = {self.group_of(work): [] for work in self.works}
        for work in sorted(self.works, key=_seed):
            outcome = self.outcome(work)
            if outcome is not None and outcome.loss is not None and self._whole(work):
                found[self.group_of(work)].append(outcome.loss)
        return found

    def left_out(self) -> list[str]:
        """A sentence for each training that ended before its last step: its model is not one of equal budget."""
        ended = [(work, outcome) for work in self.works if (outcome := self.outcome(work)) is not None and not self._whole(work)]
        return [
            f"{self.group_of(work)} seed {work.seed}: {outcome.kind} after {outcome.step} of {outcome.steps_planned} steps "
            f"({outcome.evidence})"
            for work, outcome in ended
        ]

    def _whole(self, work: Work) -> bool:
        outcome = self.outcome(work)
        return outcome is not None and outcome.step >= outcome.steps_planned

    def _record(self, params: Params, data_hash: str, directories: Mapping[Contestant, Directories]) -> dict[str, Any]:
        exclude = {"machine": True, "sweep": True, "compare": True}
        return {
            "kind": "seeds",
            "settings": asdict(self.settings),
            "params": params.model_dump(mode="json", exclude=exclude),
            "data": data_hash,
            "start_from": {name: start for own in directories.values() for name, start in own.starts().items()},
            "training_code": {name: own.code() for name, own in directories.items()},
        }


def _seed(work: Work) -> int:
    return work.seed
