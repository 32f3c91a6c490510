"""A sweep as a plain object: it says which trial runs next, hears how trials ended, and tells Optuna.

The trials' directories are the truth. Whatever is killed, and wherever, a Sweep made again over the same folder goes on: a trial
that left an outcome is told and not run again; one without is handed out again, and continues from its checkpoint; a point that
was asked for and not written down yet gets the same values as before (limoe/sweep/samplers.py).

Points start with one seed; those of the better third get more (limoe/sweep/points.py). Equal points share their directories, so
that a point suggested twice costs nothing. After the search the robust best and the runner-up are run on five fresh seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from limoe.config import Params
from limoe.errors import UserError
from limoe.files import read_json, write_json
from limoe.paths import Paths
from limoe.sweep.dimension import Value
from limoe.sweep.directories import FIRST_OUTCOME, START_PATHS, TRIALS, Directories
from limoe.sweep.outcome import Outcome
from limoe.sweep.points import FINAL_SEEDS, Verdict, judge, promising
from limoe.sweep.reports import read_reports
from limoe.sweep.samplers import make_pruner, make_sampler
from limoe.sweep.space import Space
from limoe.sweep.storage import keep_record, open_storage, without_password
from limoe.sweep.work import Published, SweepSettings, Work

__all__ = ["FIRST_OUTCOME", "Published", "Sweep", "SweepSettings", "Work"]
FINALISTS = "finalists.json"
REFUSED = "refused"  # user attribute of a point that Params does not allow
STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "fail": TrialState.FAIL}


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
        self._trials = Directories(paths.root, self.folder, space, params, settings.contestant, settings.reports, data_hash)
        self._budget = settings.trials
        if settings.sampler == "grid":
            self._budget = min(settings.trials, math.prod(map(len, space.grid().values())))
        objectives = len(settings.objectives)
        sampler = make_sampler(settings.sampler, space, settings.seed, objectives)
        pruner = make_pruner(settings.pruner, settings.reports, objectives)
        storage = open_storage(self.folder, settings.storage)  # first: a wrong URL shall not take the name
        keep_record(self.folder, self._record(params, data_hash), may_change=("trials", *START_PATHS))
        (self.folder / TRIALS).mkdir(parents=True, exist_ok=True)  # for the report, if every point is refused
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(
            storage=storage,
            study_name=settings.name,
            directions=["minimize"] * objectives,
            sampler=sampler,
            pruner=pruner,
            load_if_exists=True,
        )
        self._points: list[_Point] = []
        for frozen in self._study.get_trials(deepcopy=False):
            self._reopen(frozen)
        self._settle_all()

    def next(self) -> Work | None:
        """A trial to start now; None if there is none before a running one has ended, or at all (`done`)."""
        for point in self._open():
            if work := self._work(point):
                return work
        while len(self._points) < self._budget and not self._waiting():
            if work := self._work(self._add(self._study.ask())):
                return work
        if self._open():
            return None
        return next((self._trials.begin(work) for work in self._finals() if self._trials.ready(work)), None)

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
        self._trials.end(work, outcome)
        self._settle_all()

    def retry(self, work: Work) -> None:
        """Hand the trial out again: whoever ran it has gone without an outcome."""
        self._trials.end(work, None)

    @property
    def done(self) -> bool:
        """Whether nothing is left to run: every point is closed, and the finalists have run."""
        return self._searched() and all(self._trials.outcome(work) is not None for work in self._finals())

    @property
    def planned(self) -> int:
        """Points in all: `trials`, or fewer if a grid has no more."""
        return self._budget

    @property
    def refused(self) -> dict[int, str]:
        """The points so far whose values the parameters do not allow together, and why: they had no trial."""
        trials = self._study.get_trials(deepcopy=False)
        return {trial.number: trial.user_attrs[REFUSED] for trial in trials if REFUSED in trial.user_attrs}

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
            outcomes = {work.seed: outcome for work in works if (outcome := self._trials.outcome(work)) is not None}
            if len(outcomes) == len(FINAL_SEEDS):
                found.append(Published(values, outcomes))
        return found

    def _record(self, params: Params, data_hash: str) -> dict[str, Any]:
        settings = asdict(self.settings) | {"objectives": list(self.settings.objectives)}
        trials, url = settings.pop("trials"), self.settings.storage
        ends = [end for one in self.space.dimensions if one.name == "train.start_from" for end in one.ends]
        return {
            "settings": settings | {"storage": None if url is None else without_password(url)},
            "trials": trials,
            "space": self.space.document,
            "params": params.model_dump(mode="json", exclude={"machine", "sweep"}),
            "data": data_hash,
            "start_from": self._trials.starts(end for end in ends if isinstance(end, str)),
            "training_code": self._trials.code(),
        }

    def _reopen(self, frozen: FrozenTrial) -> None:
        if frozen.state == TrialState.RUNNING:
            self._add(optuna.Trial(self._study, frozen._trial_id))
        elif REFUSED in frozen.user_attrs:
            self._points.append(_Point(frozen.number, {}, None, verdict=Verdict("fail")))
        else:
            point = _Point(frozen.number, self.space.normal(frozen.params), None)
            if not (outcomes := self._outcomes(point)):
                raise UserError(
                    f"{self.folder}: point {point.number} is in the study {self.settings.name}, and its trial has no directory "
                    "with an outcome here: put it back, or start anew under another name"
                )
            point.verdict = judge(outcomes)
            self._points.append(point)

    def _add(self, trial: optuna.Trial) -> _Point:
        """A point that Optuna has asked for; values that do not fit together are refused, and count as a point all the same."""
        point = _Point(trial.number, self.space.suggest(trial), trial)
        self._points.append(point)
        try:
            self._work_of(point, 0)
        except UserError as error:
            trial.set_user_attr(REFUSED, str(error))
            point.values = {}
            self._close(point, Verdict("fail"))
            return point
        while point.planned < self.settings.seeds and (self._work_of(point, point.planned).folder).exists():
            point.planned += 1  # promoted before a kill, or an equal point was
        return point

    def _open(self) -> list[_Point]:
        return [point for point in self._points if point.verdict is None]

    def _waiting(self) -> bool:
        """Whether a point waits for the trial of an equal one; until it ends, a sampler would only suggest more of the same."""
        return any(self._trials.runs_for_another(self._work_of(point, len(self._outcomes(point)))) for point in self._open())

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
        return self._trials.begin(work) if self._trials.ready(work) else None

    def _close(self, point: _Point, verdict: Verdict) -> None:
        """Tell Optuna; a pruned point is told with its last report."""
        if point.trial is None:
            return
        self._report(point)
        values = [value for value in (verdict.loss, verdict.seconds) if value is not None][: len(self.settings.objectives)]
        self._study.tell(point.trial, values or None, STATES[verdict.state])
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
            outcome = self._trials.outcome(self._work_of(point, seed))
            if outcome is None:
                break
            found.append(outcome)
        return found

    def _work_of(self, point: _Point, seed: int) -> Work:
        if seed not in point.works:
            point.works[seed] = self._trials.work(point.number, point.values, seed, "search")
        return point.works[seed]

    def _point_of(self, work: Work) -> _Point | None:
        """The open point of which `work` is the first trial."""
        return next((point for point in self._open() if point.number == work.number and work.seed == 0), None)

    def _finals(self) -> list[Work]:
        """The finalists' trials on fresh seeds, seed by seed, so that both are known alike if the sweep is broken off."""
        finalists = self.finalists()
        numbers = [self._number(values, place) for place, values in enumerate(finalists)]
        pairs = list(zip(numbers, finalists, strict=True))
        return [self._trials.work(number, values, seed, "final") for seed in FINAL_SEEDS for number, values in pairs]

    def _number(self, values: dict[str, Value], place: int) -> int:
        """The first point with these values; for a recipe that was not tried, a number behind all points."""
        tried = (point.number for point in self._points if point.values == values)
        return next(tried, len(self._points) + place)

    def _recommended(self) -> Iterator[dict[str, Any]]:
        from limoe.sweep.recommend import recommend
        from limoe.sweep.table import collect

        found = recommend(collect(self.folder), self.space.names, self.space.document)
        if found is not None:
            yield from (choice.values for choice in (found.robust, found.runner_up) if choice is not None)
