"""A sweep as a plain object: it says which trial runs next, hears how trials ended, and tells Optuna.

The trials' directories are the truth. Whatever is killed, and wherever, a Sweep made again over the same folder goes on: a trial
that left an outcome is told and not run again; one without is handed out again, and continues from its checkpoint; a point that
was asked for and not written down yet gets the same values as before (limoe/sweep/samplers.py).

Points start with one seed; those of the better third get more (limoe/sweep/points.py). Equal points share their directories, so
that a point suggested twice costs nothing. After the search the robust best and the runner-up are run on five fresh seeds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from limoe.config import Contestant, Params
from limoe.errors import UserError
from limoe.files import read_json, write_json
from limoe.paths import Paths
from limoe.sweep.dimension import Value
from limoe.sweep.outcome import FILE as OUTCOME
from limoe.sweep.outcome import Outcome, read_outcome, write_outcome
from limoe.sweep.points import FINAL_SEEDS, RETRIED, Verdict, judge, promising
from limoe.sweep.reports import read_reports
from limoe.sweep.role import Phase, Role, read_role, write_role
from limoe.sweep.samplers import make_pruner, make_sampler
from limoe.sweep.space import Space
from limoe.sweep.spec import TrialSpec, create
from limoe.sweep.storage import keep_record, open_storage, without_password

OBJECTIVES = (("loss",), ("loss", "seconds"))
FIRST_OUTCOME = "outcome.1.json"  # of a trial that was retried
FINALISTS = "finalists.json"
REFUSED = "refused"  # user attribute of a point that Params does not allow


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
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise UserError(f"the sweep's name {self.name!r} is not allowed: letters, digits, dots, - and _ are")
        for key in ("trials", "seeds", "reports"):
            if getattr(self, key) < 1:
                raise UserError(f"{key} = {getattr(self, key)} is not allowed: it must be at least 1")
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


@dataclass
class _Point:
    number: int
    values: dict[str, Value]
    trial: optuna.Trial | None  # while it is open
    planned: int = 1  # seeds
    verdict: Verdict | None = None
    works: dict[int, Work] = field(default_factory=dict)


class Sweep:
    """The state of one sweep; opened again, it goes on where it was. Not for several threads, nor two processes at a time."""

    def __init__(self, settings: SweepSettings, space: Space, params: Params, paths: Paths, data_hash: str) -> None:
        self.settings = settings
        self.space = space
        self.folder = paths.sweep(settings.name)
        self._params = params
        self._data_hash = data_hash
        self._budget = (
            min(settings.trials, math.prod(map(len, space.grid().values()))) if settings.sampler == "grid" else settings.trials
        )
        objectives = len(settings.objectives)
        sampler = make_sampler(settings.sampler, space, settings.seed, objectives)
        pruner = make_pruner(settings.pruner, settings.reports, objectives)
        keep_record(self.folder, self._record(), may_change=("trials",))
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(
            storage=open_storage(self.folder, settings.storage),
            study_name=settings.name,
            directions=["minimize"] * objectives,
            sampler=sampler,
            pruner=pruner,
            load_if_exists=True,
        )
        self._running: dict[Path, Work] = {}
        self._ended: dict[Path, Outcome] = {}
        self._points: list[_Point] = []
        for frozen in self._study.get_trials(deepcopy=False):
            self._reopen(frozen)
        self._settle_all()

    def next(self) -> Work | None:
        """A trial to start now; None if there is none before a running one has ended, or at all (`done`)."""
        for point in self._open():
            if work := self._work(point):
                return work
        while len(self._points) < self._budget:
            if work := self._work(self._add(self._study.ask())):
                return work
        return None if self._open() else next((self._begin(work) for work in self._finals() if self._ready(work)), None)

    def watch(self, running: list[Work]) -> None:
        """Pass what running trials report on to the pruner, and ask those to end that it gives up (a file `prune`).

        Only a point's first trial is judged: a point that is repeated has proved worth it.
        """
        for work in running:
            point = self._point_of(work)
            if point is None or point.trial is None or not self._report(point):
                continue
            reported = len(read_reports(work.folder))
            if reported < self.settings.reports and point.trial.should_prune():
                (work.folder / "prune").touch()

    def finish(self, work: Work, outcome: Outcome) -> None:
        """Take in how a trial ended; a killed one, and one with an error, is handed out once more."""
        if read_outcome(work.folder) is None:
            write_outcome(work.folder, outcome)
        self._running.pop(work.folder, None)
        self._settle_all()

    def retry(self, work: Work) -> None:
        """Hand the trial out again: whoever ran it has gone without an outcome."""
        self._running.pop(work.folder, None)

    @property
    def done(self) -> bool:
        """Whether nothing is left to run: every point is closed, and the finalists have run."""
        return self._searched() and all(self._outcome(work) is not None for work in self._finals())

    def finalists(self) -> list[dict[str, Value]]:
        """The robust best point and the runner-up (fewer if too few succeeded), once the search is over; before that none.

        Chosen once for this number of points, and kept: what is published does not depend on when somebody looks.
        """
        if not self._searched():
            return []
        path = self.folder / FINALISTS
        if path.exists() and (kept := read_json(path))["points"] == len(self._points):
            return [self.space.normal(values) for values in kept["finalists"]]
        chosen = [self.space.normal(values) for values in self._recommended()]
        write_json(path, {"points": len(self._points), "finalists": chosen})
        return chosen

    @property
    def published(self) -> list[Published]:
        """The finalists whose trials on fresh seeds have all ended."""
        found = []
        for values in self.finalists():
            works = [work for work in self._finals() if self.space.normal(work.spec.values) == values]
            outcomes = {work.seed: outcome for work in works if (outcome := self._outcome(work)) is not None}
            if len(outcomes) == len(FINAL_SEEDS):
                found.append(Published(values, outcomes))
        return found

    def _record(self) -> dict[str, Any]:
        settings = asdict(self.settings) | {"objectives": list(self.settings.objectives)}
        trials = settings.pop("trials")
        url = settings["storage"]
        base = self._spec({}, self._params.train.seed)
        return {
            "settings": settings | {"storage": None if url is None else without_password(url)},
            "trials": trials,
            "space": self.space.document,
            "params": self._params.model_dump(mode="json", exclude={"machine", "sweep"}),
            "data": self._data_hash,
            "training_code": base.fingerprint(self._data_hash),
        }

    def _reopen(self, frozen: FrozenTrial) -> None:
        if frozen.state == TrialState.RUNNING:
            self._add(optuna.Trial(self._study, frozen._trial_id))
        elif REFUSED in frozen.user_attrs:
            self._points.append(_Point(frozen.number, {}, None, verdict=Verdict("fail")))
        else:
            point = _Point(frozen.number, self.space.normal(frozen.params), None)
            outcomes = self._outcomes(point)
            point.verdict = judge(outcomes) if outcomes else Verdict("fail")
            self._points.append(point)

    def _add(self, trial: optuna.Trial) -> _Point:
        """A point that Optuna has asked for; values that do not fit together are refused, and count as a point all the same."""
        point = _Point(trial.number, self.space.suggest(trial), trial)
        self._points.append(point)
        try:
            self.space.resolve(self._params, point.values, 0, self.settings.contestant)
        except UserError as error:
            trial.set_user_attr(REFUSED, str(error))
            point.values = {}
            self._close(point, Verdict("fail"))
            return point
        while point.planned < self.settings.seeds and (self._work_of(point, point.planned).folder / OUTCOME).exists():
            point.planned += 1  # promoted before a kill, or an equal point was
        return point

    def _open(self) -> list[_Point]:
        return [point for point in self._points if point.verdict is None]

    def _searched(self) -> bool:
        return len(self._points) >= self._budget and not self._open()

    def _settle_all(self) -> None:
        for point in self._open():
            self._settle(point)

    def _settle(self, point: _Point) -> None:
        """Close the point if all its trials have ended and it is not worth another."""
        while len(outcomes := self._outcomes(point)) >= point.planned:
            verdict = judge(outcomes)
            others = [other.verdict for other in self._points if other.verdict is not None]
            if point.planned >= self.settings.seeds or not promising(verdict, others):
                self._close(point, verdict)
                return
            point.planned += 1

    def _work(self, point: _Point) -> Work | None:
        """The open point's next trial, begun; None if the point can be closed or waits for a running trial."""
        if point.verdict is None:
            self._settle(point)
        if point.verdict is not None:
            return None
        work = self._work_of(point, len(self._outcomes(point)))
        return self._begin(work) if self._ready(work) else None

    def _ready(self, work: Work) -> bool:
        return work.folder not in self._running and self._outcome(work) is None

    def _begin(self, work: Work) -> Work:
        create(work.folder, work.spec)
        if read_role(work.folder) is None:
            write_role(work.folder, Role(work.number, work.phase))
        self._running[work.folder] = work
        return work

    def _close(self, point: _Point, verdict: Verdict) -> None:
        """Tell Optuna; a pruned point is told with its last report."""
        if point.trial is None:
            return
        self._report(point)
        values = [value for value in (verdict.loss, verdict.seconds) if value is not None][: len(self.settings.objectives)]
        state = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "fail": TrialState.FAIL}[verdict.state]
        self._study.tell(point.trial, values if verdict.state == "complete" else None, state)
        point.verdict, point.trial = verdict, None

    def _report(self, point: _Point) -> bool:
        """Pass the reports of the point's first trial on to Optuna; whether there were new ones."""
        if point.trial is None or len(self.settings.objectives) > 1 or not point.values:
            return False
        known = point.trial.storage.get_trial(point.trial._trial_id).intermediate_values
        new = {
            count: row["loss"]
            for count, row in enumerate(read_reports(self._work_of(point, 0).folder), 1)
            if count not in known and row.get("loss") is not None and math.isfinite(row["loss"])
        }
        for count, loss in new.items():
            point.trial.report(loss, count)
        return bool(new)

    def _outcomes(self, point: _Point) -> list[Outcome]:
        """How the point's trials ended, in the order of their seeds, up to the first that has not."""
        found: list[Outcome] = []
        for seed in range(self.settings.seeds):
            outcome = self._outcome(self._work_of(point, seed))
            if outcome is None:
                break
            found.append(outcome)
        return found

    def _outcome(self, work: Work) -> Outcome | None:
        """How the trial ended; None if it has not, or is to be retried."""
        if work.folder in self._running:
            return None
        if work.folder not in self._ended and (outcome := read_outcome(work.folder)) is not None:
            if outcome.kind in RETRIED and not (work.folder / FIRST_OUTCOME).exists():
                (work.folder / OUTCOME).replace(work.folder / FIRST_OUTCOME)
                return None
            self._ended[work.folder] = outcome
        return self._ended.get(work.folder)

    def _work_of(self, point: _Point, seed: int) -> Work:
        if seed not in point.works:
            point.works[seed] = self._make(point.number, point.values, seed, "search")
        return point.works[seed]

    def _make(self, number: int, values: dict[str, Value], seed: int, phase: Phase) -> Work:
        spec = self._spec(values, seed)
        return Work(number, seed, self.folder / "trials" / spec.fingerprint(self._data_hash), spec, phase)

    def _spec(self, values: dict[str, Value], seed: int) -> TrialSpec:
        resolved = self.space.resolve(self._params, values, seed, self.settings.contestant)
        return TrialSpec(self.settings.contestant, values, seed, resolved.model_dump(mode="json"), self.settings.reports)

    def _point_of(self, work: Work) -> _Point | None:
        """The open point of which `work` is the first trial."""
        return next((point for point in self._open() if point.number == work.number and work.seed == 0), None)

    def _finals(self) -> list[Work]:
        """The finalists' trials on fresh seeds, seed by seed, so that both are known alike if the sweep is broken off."""
        finalists = self.finalists()
        numbers = [self._number(values, place) for place, values in enumerate(finalists)]
        pairs = list(zip(numbers, finalists, strict=True))
        return [self._make(number, values, seed, "final") for seed in FINAL_SEEDS for number, values in pairs]

    def _number(self, values: dict[str, Value], place: int) -> int:
        """The first point with these values; for a recipe that was not tried, a number behind all points."""
        tried = (point.number for point in self._points if point.values == values)
        return next(tried, len(self._points) + place)

    def _recommended(self) -> Iterator[dict[str, Any]]:
        from limoe.sweep.recommend import recommend
        from limoe.sweep.table import collect

        found = recommend(collect(self.folder), self.space.names, self.space)
        yield from (values for values in (found.robust, found.runner_up) if values)
