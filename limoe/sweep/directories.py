"""The trials' directories of a sweep: which trial has which, what is running, how each ended. They are the truth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from limoe.config import CONTESTANTS, Contestant, Params
from limoe.errors import UserError
from limoe.sweep.dimension import Value
from limoe.sweep.outcome import FILE as OUTCOME
from limoe.sweep.outcome import Outcome, read_outcome, write_outcome
from limoe.sweep.points import RETRIED
from limoe.sweep.role import Phase, Role, read_role, write_role
from limoe.sweep.spec import TrialSpec, create
from limoe.sweep.trial import discard_state
from limoe.sweep.work import Work

TRIALS = "trials"  # in the sweep's folder
FIRST_OUTCOME = "outcome.1.json"  # of a trial that was retried
# In a study's record: where a start lies may change, as what lies there (`Directories.starts`) is held against it.
START_PATHS = ("params.train.start_from", *(f"params.contestants.{name}.start_from" for name in CONTESTANTS))


class Resolver(Protocol):
    """What makes parameters of a trial's values: a Space, or an ablation's variants."""

    def resolve(self, params: Params, values: Mapping[str, Value], seed: int, contestant: Contestant) -> Params:
        """The parameters with these values and this seed, validated; UserError if they do not fit."""


class Directories:
    """Trials of one contestant under `folder`/trials, each named by the fingerprint of all that its result depends on."""

    def __init__(
        self,
        root: Path,
        folder: Path,
        space: Resolver,
        params: Params,
        contestant: Contestant,
        reports: int,
        data_hash: str,
        keep_models: bool = False,
    ) -> None:
        """root: where the path `train.start_from` begins. keep_models: whether trials leave their models.

        UserError if trainings are to roll back: among trials failures are results.
        """
        if params.train_for(contestant).health.action == "rollback":
            raise UserError(
                "train.health.action = rollback is not allowed in a sweep, an ablation or seeds: it would hide failures, and "
                f"trials would differ in how many steps count; set it to warn (here it is that of {contestant})"
            )
        self._root = root
        self._folder = folder / TRIALS
        self._space = space
        self._params = params
        self._contestant: Contestant = contestant
        self._reports = reports
        self._data_hash = data_hash
        self._keep_models = keep_models
        self._running: dict[Path, Work] = {}
        self._ended: dict[Path, Outcome] = {}
        self._contents: dict[str, str] = {}  # hash of a start, by its path

    def work(self, number: int, values: dict[str, Value], seed: int, phase: Phase) -> Work:
        """The trial of these values and this seed; UserError if they do not fit together. Nothing is written."""
        resolved = self._space.resolve(self._params, values, seed, self._contestant)
        document, start = resolved.model_dump(mode="json"), self._content(resolved.train_for(self._contestant).start_from)
        spec = TrialSpec(self._contestant, values, seed, document, self._reports, self._keep_models, start)
        return Work(number, seed, self._folder / spec.fingerprint(self._data_hash), spec, phase)

    def begin(self, work: Work) -> Work:
        """Make the trial's directory, and count it as running."""
        create(work.folder, work.spec)
        if read_role(work.folder) is None:
            write_role(work.folder, Role(work.number, work.phase))
        self._running[work.folder] = work
        return work

    def end(self, work: Work, outcome: Outcome | None) -> None:
        """The trial runs no longer; None if it left no outcome, and may be handed out again."""
        if outcome is not None and read_outcome(work.folder) is None:
            write_outcome(work.folder, outcome)
        self._running.pop(work.folder, None)

    def outcome(self, work: Work) -> Outcome | None:
        """How the trial ended; None if it has not. What a machine may have caused is laid aside once, to run again."""
        folder = work.folder
        if folder in self._running:
            return None
        if folder not in self._ended and (outcome := read_outcome(folder)) is not None:
            if outcome.kind in RETRIED and not (folder / FIRST_OUTCOME).exists():
                (folder / OUTCOME).replace(folder / FIRST_OUTCOME)
                return None
            discard_state(folder)
            self._ended[folder] = outcome
        return self._ended.get(folder)

    def ready(self, work: Work) -> bool:
        """Whether the trial is to be run: it does not run, and has not ended."""
        return work.folder not in self._running and self.outcome(work) is None

    def runs_for_another(self, work: Work) -> bool:
        """Whether the trial runs, and was begun for another point."""
        return work.folder in self._running and self._running[work.folder].number != work.number

    def code(self) -> str:
        """A name for parameters, data, start and code together: it changes if the code does, the others being equal."""
        return self.work(0, {}, self._params.train.seed, "search").folder.name

    def starts(self, searched: Iterable[str] = ()) -> dict[str, str | None]:
        """Hash of what the contestant starts from, by its name, and of each that is searched, by its path."""
        own = self._params.train_for(self._contestant).start_from
        return {self._contestant: self._content(own)} | {path: self._content(path) for path in searched}

    def _content(self, start_from: str | None) -> str | None:
        """Read once: a trial whose start changes later refuses it itself."""
        if start_from is None:
            return None
        if start_from not in self._contents:
            from limoe.train.start import directory_hash  # which brings torch

            self._contents[start_from] = directory_hash(self._root / start_from)
        return self._contents[start_from]
