"""A trial's training, in its own process: the parts of the train stage, with the objective measured on the way.

Alarms neither stop a trial nor roll it back, whatever train.health.action says: how early a failure can be told is learnt from
trajectories that run to their end. A divergence stops it: nothing comes after it. On a CPU batches are made only when they are
asked for, so that a trial keeps no more cores busy than it has threads.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from limoe.config import Params, TrainParams
from limoe.data.prepared import TOKENIZER
from limoe.data.suggestion import with_suggestion
from limoe.data.transforms import Preprocess
from limoe.dist import pick_device
from limoe.errors import UserError
from limoe.evals.validation import Validation
from limoe.files import atomic_file, write_json
from limoe.model.io import save_model
from limoe.paths import Paths
from limoe.stages.train import open_trainer
from limoe.sweep.data import prepared_for
from limoe.sweep.outcome import Kind, Outcome, judge
from limoe.sweep.reports import append_report, read_reports
from limoe.sweep.slots import limited_memory
from limoe.sweep.spec import TrialSpec
from limoe.train.contestants import caption_lengths, cost, model_config
from limoe.train.health import Alarm, Stopped
from limoe.train.loop import Trainer
from limoe.train.outcome import ROUTING_SCHEMA
from limoe.train.progress import Progress
from limoe.train.start import Start

PRUNE = "prune"  # whoever runs the sweep makes this file to end the trial


@dataclass
class Reached:
    """How far a training came, whatever ended it. step: optimiser steps. seconds: of all of them."""

    step: int = 0
    seconds: float = 0.0


class Pruned(Exception):
    """The file `prune` has appeared."""


def report_steps(steps: int, reports: int) -> list[int]:
    """Where the objective is measured: `reports` times at equal intervals, the last at the end; fewer if there are fewer steps.

    >>> report_steps(100, 3)
    [33, 67, 100]
    """
    return sorted({max(1, round(number * steps / reports)) for number in range(1, reports + 1)})


def train_trial(folder: Path, spec: TrialSpec, data: Path, reached: Reached, memory_mb: int | None = None) -> Outcome:
    """Train and measure; how it ended, if not by an exception. `reached` is set for whoever catches one.

    memory_mb: of address space, beyond what its libraries take.
    """
    with limited_memory(memory_mb):
        return _train(folder, spec, data, reached)


def _train(folder: Path, spec: TrialSpec, data: Path, reached: Reached) -> Outcome:
    paths = Paths(data.absolute().parent.parent)
    params, train = _settings(spec, paths)
    prepared = prepared_for(params, data)
    lengths = caption_lengths(prepared, train, params.model.tower)
    config = model_config(params, spec.contestant, prepared, lengths)
    start = None if train.start_from is None else Start.of(paths.root / train.start_from, config, data / TOKENIZER)
    if start is not None and start.hash != spec.start:
        raise UserError(f"train.start_from: {start.folder} is another model than when this trial was planned")
    validation = Validation(prepared, params.model.tower, train)
    with (
        Progress(spec.contestant, train) as progress,
        open_trainer(params, config, start, train, prepared, folder, progress.row, lambda _: None) as trainer,
    ):
        look = _Look(folder, train.steps, progress)
        trainer.on_row, trainer.on_alarm = look.row, look.alarm
        progress.start(trainer.step)
        try:
            outcome = _run(trainer, spec, validation, look)
        finally:
            reached.step, reached.seconds = trainer.step, round(trainer.pace.seconds, 3)
        with atomic_file(folder / "routing.parquet") as handle:
            pq.write_table(pa.Table.from_pylist(trainer.routing.rows(), ROUTING_SCHEMA), handle)
        if spec.keep_model:
            preprocess = Preprocess(config.tower.image_size).to_dict()
            save_model(folder / "model", config, trainer.model.state_dict(), data / TOKENIZER, preprocess)
            resolved = {"model": config.model_dump(mode="json"), "train": train.model_dump(mode="json"), "data": prepared.hash}
            write_json(folder / "params.json", resolved)  # as the train stage leaves them: what a comparison needs to know
            write_json(folder / "cost.json", cost(config, train, lengths))
    return outcome


def _settings(spec: TrialSpec, paths: Paths) -> tuple[Params, TrainParams]:
    """The parameters with thresholds looked up, and the contestant's recipe with the trial's seed."""
    params = Params.parse(spec.params, "the trial's params")
    params = params.model_copy(update={"train": params.train.model_copy(update={"seed": spec.seed})})
    if spec.contestant == "limoe":
        params = with_suggestion(params, paths)
    if pick_device(params.machine.device).type == "cpu":
        params = params.model_copy(update={"machine": params.machine.model_copy(update={"workers": 0})})
    train = params.train_for(spec.contestant)
    warn = train.health.model_copy(update={"action": "warn"})
    return params, train.model_copy(update={"health": warn, "export": "last"})


@dataclass(frozen=True)
class _Look:
    """What is looked at, and said, at each row of the log, report and alarm of the trial in `folder`."""

    folder: Path
    steps: int
    progress: Progress

    def row(self, row: dict[str, Any]) -> None:
        self.progress.row(row)
        self.prune(row["step"])

    def report(self, row: dict[str, Any]) -> None:
        append_report(self.folder, row)
        self.progress.say(f"step {row['step']}: validation loss {row['loss']:.4f}")

    def alarm(self, alarm: Alarm) -> None:
        self.progress.alarm(alarm)
        if alarm.name == "diverged":
            raise Stopped(alarm)

    def prune(self, step: int) -> None:
        """Pruned if that was asked for; a trial that has done its last step is finished."""
        if step < self.steps and (self.folder / PRUNE).exists():
            raise Pruned


def _run(trainer: Trainer, spec: TrialSpec, validation: Validation, look: _Look) -> Outcome:
    """Train from report to report. A report that was made before an interruption is not made again: it would be the same."""
    folder = look.folder
    known = {row["step"] for row in read_reports(folder)}
    try:
        for until in report_steps(trainer.train.steps, spec.reports):
            trainer.run(until)
            if until not in known:
                look.report(_measured(trainer, validation))
            look.prune(until)
    except Pruned:
        return _ended(trainer, folder, trainer.alarms, "pruned")
    except Stopped as stopped:
        return _ended(trainer, folder, [*(alarm for alarm in trainer.alarms if alarm != stopped.alarm), stopped.alarm])
    return _ended(trainer, folder, trainer.alarms)


def _measured(trainer: Trainer, validation: Validation) -> dict[str, Any]:
    """A row of reports.jsonl. Stopped if the model is broken."""
    scores = validation.run(trainer.task.model, trainer.device, trainer.task.precision)
    if not all(math.isfinite(value) for value in scores.values()):
        raise Stopped(Alarm("diverged", trainer.step, "the embeddings of the validation pictures or captions are not finite"))
    return {"step": trainer.step, "seconds": round(trainer.pace.seconds, 3)} | scores


def _ended(trainer: Trainer, folder: Path, alarms: list[Alarm], kind: Kind | None = None) -> Outcome:
    found, evidence, modality, layer = judge(alarms)
    if kind == "pruned":
        found, evidence = kind, f"pruned at step {trainer.step}: others did better by then"
    last = read_reports(folder)[-1:] if found != "diverged" else []
    scores = {name: value for row in last for name, value in row.items() if name not in ("step", "seconds")}
    return Outcome(
        kind=found,
        step=trainer.step,
        evidence=evidence,
        steps_planned=trainer.train.steps,
        seconds=round(trainer.pace.seconds, 3),
        modality=modality if found == "collapsed" else None,
        layer=layer if found == "collapsed" else None,
        alarms=[asdict(alarm) for alarm in alarms],
        loss=scores.pop("loss", None),
        scores=scores,
    )
