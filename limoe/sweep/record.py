"""A sweep in MLflow: a run of its own, and within it one for each trial; the trials' directories stay the truth.

One process writes: the sweep's. A trial is recorded after its end, under its directory's name, so that whoever starts the sweep
again records what is missing and nothing twice. Params are only what was searched, and the seed: the UI compares those.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from limoe.config import MachineParams
from limoe.files import flatten, write_text
from limoe.sweep.outcome import Outcome, read_outcome
from limoe.sweep.reports import read_reports, whole_rows
from limoe.sweep.role import read_role
from limoe.sweep.trial import read_spec
from limoe.tracking import Tracker, open_tracker

EXPERIMENT = "limoe-sweep"
KEY_FILE = "mlflow_key"  # names the sweep's run before MLflow has begun it
POINTS = 100  # of a curve
CURVE = re.compile(
    r"contrastive|logit_scale|gradient_norm|block\d+/(dead_experts|(text|image)_(placed|effective_experts|logits))"
)
TEXT_LIMIT = 5000  # characters of a tag that every store of MLflow takes
RESULTS = (
    "sweep.json",
    "trials.parquet",
    "ablation.csv",
    "compare.yaml",
    "sensitivity.json",
    "report.html",
    "report.md",
    "plots",
)


class Recorder:
    """The run of the sweep in `folder`, kept up to date. A context manager; without tracking it does nothing."""

    def __init__(self, tracker: Tracker, folder: Path) -> None:
        self._tracker = tracker
        self._folder = folder
        self._before = tracker.ended_children()
        self._recorded: set[str] = set()
        self._seen: set[str] = set()
        self._best = math.inf

    def __enter__(self) -> Self:
        self._tracker.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Bring the run up to date, with what the sweep's folder holds by then, and end it."""
        try:
            if kind is None:
                self.catch_up()
                self.keep_results()
        finally:
            self._tracker.__exit__(kind, error, trace)

    def catch_up(self) -> None:
        """Record every trial that has ended and is not in MLflow, in the order in which they ended."""
        ended = [path.parent for path in self._folder.glob("trials/*/outcome.json")]
        for trial in sorted(ended, key=lambda folder: (_stamp(folder), folder.name)):
            self.record(trial)

    def attempt(self, trial: Path) -> None:
        """Record the trial if the store allows that now; a store that is away for a while ends no sweep."""
        try:
            self.record(trial)
        except Exception as error:
            told = " ".join(str(error).split())
            print(
                f"MLflow has not taken trial {trial.name} ({told}): it is recorded at the end, or when the sweep is started again"
            )

    def record(self, trial: Path) -> None:
        """Record the trial in this directory, which has ended, unless it is there already."""
        outcome = read_outcome(trial)
        if outcome is None or trial.name in self._recorded:
            return
        self._seen.add(trial.name)
        if outcome.kind == "ok" and outcome.loss is not None:
            self._best = min(self._best, outcome.loss)
        if self._tracker.run_id is not None and trial.name not in self._before:
            self._tell(trial, outcome)
        self._recorded.add(trial.name)

    def _tell(self, trial: Path, outcome: Outcome) -> None:
        best = {} if math.isinf(self._best) else {"best": self._best}
        self._tracker.log_rows([{"step": len(self._seen), "time": _stamp(trial), "finished": len(self._seen), **best}])
        spec, tags = read_spec(trial), _tags(trial, outcome)
        with self._tracker.child(trial.name, f"{tags.get('group') or tags.get('point')} seed {spec.seed}", tags) as run:
            run.log_params({**spec.values, "seed": spec.seed})
            run.log_rows(list(_rows(trial, outcome)))

    def keep_results(self) -> None:
        """Keep the table of trials, the report and what else the sweep's folder holds of RESULTS, in its run."""
        for path in (self._folder / name for name in RESULTS):
            if path.exists():
                self._tracker.log_artifact(path)


def open_recorder(machine: MachineParams, root: Path, folder: Path, settings: Mapping[str, Any]) -> Recorder:
    """The sweep's run, begun or gone on with; the project lies in `root`, the settings become tags (they may change)."""
    note = folder / KEY_FILE
    if machine.tracking != "none" and not note.exists():
        write_text(note, uuid.uuid4().hex)
    key = note.read_text(encoding="utf-8") if note.exists() else None
    tracker = open_tracker(machine, root, EXPERIMENT, folder.name, key=key)
    tracker.set_tags(flatten(settings))
    return Recorder(tracker, folder)


def thinned(rows: Sequence[Any], most: int) -> list[Any]:
    """At most `most` (2 or more) of the rows, evenly spaced, the first and the last among them.

    >>> thinned(range(9), 3)
    [0, 4, 8]
    """
    if len(rows) <= most:
        return list(rows)
    return [rows[round(index * (len(rows) - 1) / (most - 1))] for index in range(most)]


def _tags(trial: Path, outcome: Outcome) -> dict[str, Any]:
    role = read_role(trial)
    tags = {
        "outcome": outcome.kind,
        "evidence": outcome.evidence[:TEXT_LIMIT],
        "modality": outcome.modality,
        "layer": outcome.layer,
        "alarms": ", ".join(alarm["name"] for alarm in outcome.alarms),
        "contestant": read_spec(trial).contestant,
        **(asdict(role) if role else {}),
    }
    return {name: value for name, value in tags.items() if value not in (None, "")}


def _rows(trial: Path, outcome: Outcome) -> Iterator[dict[str, float]]:
    """Rows for MLflow: curves, the objective on the way, and the end's figures. A row sent again has the same time."""
    stamp = _stamp(trial)
    for row in thinned(whole_rows(trial / "metrics.jsonl"), POINTS):
        yield _finite(row, stamp, {name: value for name, value in row.items() if CURVE.fullmatch(name)})
    for report in read_reports(trial):
        yield _finite(report, stamp, {"objective": report.get("loss")})
    last = {"objective": outcome.loss, "seconds": outcome.seconds, "steps_planned": outcome.steps_planned}
    scores = {f"score/{name}": value for name, value in outcome.scores.items()}
    yield _finite({"step": outcome.step}, stamp, last | scores)


def _finite(row: Mapping[str, Any], stamp: int, values: Mapping[str, float | None]) -> dict[str, float]:
    kept = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
    return {"step": row["step"], "time": row.get("time", stamp), **kept}


def _stamp(trial: Path) -> int:
    """When the trial ended, in milliseconds since 1970."""
    return (trial / "outcome.json").stat().st_mtime_ns // 1_000_000
