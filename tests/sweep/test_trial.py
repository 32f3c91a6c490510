"""Trials for real on drawn shapes: they train as the stage does, and end in an outcome whatever happens."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from sweepkit import rows, spec, tiny, trial
from trainkit import recipe

import limoe
from limoe.config import CONTESTANTS, SELECTION_SPLITS, LocalModel
from limoe.data.prepared import Prepared
from limoe.data.schema import TRAIN
from limoe.data.suggestion import suggestion
from limoe.errors import UserError
from limoe.evals.models.registry import open_other
from limoe.files import read_json, write_json
from limoe.paths import Paths
from limoe.stages import train
from limoe.sweep import training
from limoe.sweep.reports import append_report
from limoe.sweep.training import report_steps
from limoe.sweep.trial import Outcome, create, read_outcome, read_reports, run_trial, write_outcome
from limoe.train.health import Alarm, Watch
from limoe.train.start import directory_hash

LEFT = {"trial.json", "lock", "metrics.jsonl", "reports.jsonl", "routing.parquet", "outcome.json", "bad_batches.jsonl"}


@pytest.mark.parametrize("contestant", CONTESTANTS)
def test_a_trial_trains_as_the_stage_does(tiny_data, tmp_path, contestant):
    folder = trial(tmp_path / "trial", contestant=contestant, reports=3)
    outcome = run_trial(folder, tiny_data)
    assert (outcome.kind, outcome.step, outcome.steps_planned, outcome.alarms) == ("ok", 12, 12, [])
    assert {path.name for path in folder.iterdir()} == LEFT, "no checkpoint and no model stays"
    reports = read_reports(folder)
    assert [row["step"] for row in reports] == [4, 8, 12]
    assert reports[0]["seconds"] < reports[1]["seconds"] < reports[2]["seconds"] <= outcome.seconds
    assert outcome.loss == reports[-1]["loss"]
    assert outcome.scores == {name: reports[-1][name] for name in ("loss/val-scenes", "r1/val-scenes")}
    assert read_outcome(folder) == outcome
    paths = Paths(tmp_path / "stage")
    shutil.copytree(tiny_data, paths.prepared)
    train.run(tiny(), paths, contestant)
    assert rows(folder) == rows(paths.train(contestant)), "measuring changes nothing"
    assert pq.read_table(folder / "routing.parquet").equals(pq.read_table(paths.train(contestant) / "routing.parquet"))


def test_no_test_set_is_opened(tiny_data, tmp_path, monkeypatch):
    poisoned, opened = tmp_path / "prepared", []
    shutil.copytree(tiny_data, poisoned)
    shards = list(poisoned.glob("test*.parquet"))
    assert shards
    for shard in shards:
        shard.write_bytes(b"poison")
    table = Prepared.table
    monkeypatch.setattr(Prepared, "table", lambda self, split, columns=None: opened.append(split) or table(self, split, columns))
    assert run_trial(trial(tmp_path / "trial"), poisoned).kind == "ok"
    assert set(opened) <= {TRAIN, *SELECTION_SPLITS}
    assert "val-scenes" in opened


def test_the_specs_seed_goes_first(tiny_data, tmp_path):
    named = trial(tmp_path / "a", "train.steps=4", seed=5)
    create(tmp_path / "b", replace(spec("train.steps=4"), seed=5))
    assert run_trial(named, tiny_data).loss == run_trial(tmp_path / "b", tiny_data).loss
    assert run_trial(trial(tmp_path / "c", "train.steps=4"), tiny_data).loss != read_outcome(named).loss


@pytest.mark.parametrize(
    "error,kind,evidence",
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "oom", "Tried to allocate 2 GiB"),
        (MemoryError(), "oom", "after 0 steps"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "oom", "DefaultCPUAllocator"),
        (RuntimeError("can't start new thread"), "oom", "new thread"),
        (OSError(12, "Cannot allocate memory"), "oom", "Cannot allocate"),
        (RuntimeError("shapes differ"), "error", "RuntimeError: shapes differ; the traceback is in log.txt"),
        (UserError("train.mixture names nothing"), "error", "train.mixture names nothing"),
    ],
)
def test_exceptions_are_outcomes(tmp_path, monkeypatch, error, kind, evidence):
    def fail(*_):
        raise error

    monkeypatch.setattr(training, "train_trial", fail)
    outcome = run_trial(trial(tmp_path / "trial"), tmp_path)
    assert outcome.kind == kind
    assert evidence in outcome.evidence
    assert read_outcome(tmp_path / "trial") == outcome


def test_a_divergence_stops_the_trial(tiny_data, tmp_path):
    folder = trial(tmp_path / "trial", "train.lr=1e30", "train.clip_norm=1e30", "train.max_bad_steps=2", "train.warmup=0")
    outcome = run_trial(folder, tiny_data)
    assert outcome.kind == "diverged"
    assert outcome.step < 12
    assert outcome.loss is None
    assert outcome.alarms[-1]["name"] == "diverged"
    assert "not finite" in outcome.evidence


def test_the_watchs_divergence_stops_the_trial(tiny_data, tmp_path, monkeypatch):
    alarms = [Alarm("loss-at-chance", 2, "4.2"), Alarm("diverged", 6, "the loss is 9.9")]

    def see(self, row):
        new = [alarm for alarm in alarms if alarm.step == row["step"]]
        self.alarms += new
        return new

    monkeypatch.setattr(Watch, "see", see)
    outcome = run_trial(trial(tmp_path / "trial"), tiny_data)
    assert (outcome.kind, outcome.step, outcome.loss) == ("diverged", 6, None)
    assert outcome.evidence == "diverged at step 6: the loss is 9.9"
    assert [alarm["name"] for alarm in outcome.alarms] == ["loss-at-chance", "diverged"]


def test_other_alarms_do_not_stop_a_trial(tiny_data, tmp_path):
    early = ("train.health.window=2", "train.health.grace=0", "train.health.action=stop")
    collapsed = run_trial(trial(tmp_path / "a", *early, "train.health.placed=1.0"), tiny_data)
    assert (collapsed.kind, collapsed.modality, collapsed.layer, collapsed.step) == ("collapsed", "text", 1, 12)
    assert collapsed.loss is not None
    assert [alarm["name"] for alarm in collapsed.alarms][:1] == ["text-collapse@block1"]
    unhealthy = run_trial(trial(tmp_path / "b", *early, "train.health.chance=0.01", contestant="dense"), tiny_data)
    assert (unhealthy.kind, unhealthy.step, unhealthy.modality) == ("unhealthy", 12, None)
    assert unhealthy.evidence.startswith("loss-at-chance at step 2: ")


def test_a_model_that_validation_finds_broken_has_diverged(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(training.Validation, "run", lambda *_: {"loss": float("nan"), "loss/val-scenes": float("nan")})
    outcome = run_trial(trial(tmp_path / "trial"), tiny_data)
    assert (outcome.kind, outcome.step, outcome.loss) == ("diverged", 4, None)
    assert read_reports(tmp_path / "trial") == []


def test_pruned_at_a_row_of_the_log(tiny_data, tmp_path):
    folder = trial(tmp_path / "trial")
    (folder / "prune").touch()
    outcome = run_trial(folder, tiny_data)
    assert (outcome.kind, outcome.step, outcome.loss) == ("pruned", 2, None)


def test_who_has_done_the_last_step_is_not_pruned(tiny_data, tmp_path):
    folder = trial(tmp_path / "trial", "train.steps=2", reports=1)
    (folder / "prune").touch()
    assert run_trial(folder, tiny_data).kind == "ok"


def test_pruned_after_a_report(tiny_data, tmp_path, monkeypatch):
    folder = trial(tmp_path / "trial", reports=4)

    def report_and_prune(folder, row):
        append_report(folder, row)
        if row["step"] == 6:
            (folder / "prune").touch()

    monkeypatch.setattr(training, "append_report", report_and_prune)
    outcome = run_trial(folder, tiny_data)
    assert (outcome.kind, outcome.step) == ("pruned", 6)
    assert outcome.loss == read_reports(folder)[-1]["loss"]
    assert {path.name for path in folder.iterdir()} == LEFT | {"prune"}


def test_a_trial_that_has_ended_is_not_run_again(tiny_data, tmp_path):
    folder = trial(tmp_path / "trial")
    done = Outcome("pruned", 3, "by hand", 12)
    write_outcome(folder, done)
    assert run_trial(folder, tiny_data) == done
    assert not (folder / "metrics.jsonl").exists()


def test_data_that_were_prepared_otherwise_are_refused(tiny_data, tmp_path):
    outcome = run_trial(trial(tmp_path, "prepare.scenes.canvas=96"), tiny_data)
    assert (outcome.kind, outcome.step) == ("error", 0)
    assert "was prepared with other settings" in outcome.evidence
    assert outcome.evidence.endswith("limoe prepare --set prepare.scenes.canvas=96")


def test_a_trial_starts_from_the_model_that_it_was_planned_with(tiny_data, tmp_path):
    root, settings = tmp_path / "project", ("train.start_from=runs/train/dense/model", "train.steps=2")
    paths = Paths(root)
    shutil.copytree(tiny_data, paths.prepared)
    train.run(tiny("train.steps=2"), paths, "dense")
    planned = replace(spec(*settings, reports=1), start=directory_hash(paths.model("dense")))
    create(tmp_path / "trial", planned)
    assert run_trial(tmp_path / "trial", paths.prepared).kind == "ok"
    train.run(tiny("train.steps=3"), paths, "dense")
    create(tmp_path / "late", planned)
    late = run_trial(tmp_path / "late", paths.prepared)
    assert (late.kind, late.step) == ("error", 0)
    assert late.evidence.startswith("train.start_from: ")
    assert "dense/model is another model than when this trial was planned" in late.evidence


def test_the_suggestion_of_the_balance_analysis(tiny_data, tmp_path):
    paths, settings = Paths(tmp_path), ("model.moe.router=auto", "train.steps=4")
    shutil.copytree(tiny_data, paths.prepared)
    missing = run_trial(trial(tmp_path / "missing", *settings), paths.prepared)
    assert missing.kind == "error"
    assert "run `limoe balance` first" in missing.evidence
    values = {"router": "top-k", "tau_text": 0.25, "tau_image": 1.0}
    write_json(paths.balance / "suggestion.json", suggestion(values, recipe(), Prepared(paths.prepared).hash))
    looked_up = run_trial(trial(tmp_path / "looked-up", *settings), paths.prepared)
    taus = ("model.moe.tau_text=0.25", "model.moe.tau_image=1.0")
    given = run_trial(trial(tmp_path / "given", *taus, "train.steps=4"), paths.prepared)
    assert looked_up.kind == "ok"
    assert looked_up.loss == given.loss


def test_the_model_is_kept_if_wanted(tiny_data, tmp_path):
    folder = tmp_path / "trial"
    create(folder, replace(spec("train.steps=2"), keep_model=True))
    run_trial(folder, tiny_data)
    model, _, tokenizer = limoe.load(folder / "model")
    assert model.encode_text(tokenizer(["a red circle"])).shape == (1, 8)
    facts = open_other(LocalModel(path="trial"), tmp_path, torch.device("cpu")).facts
    written = read_json(folder / "trial.json")
    assert (facts.samples, facts.seed) == (2 * written["params"]["train"]["batch"], written["seed"])
    assert facts.data == Prepared(tiny_data).hash


def test_where_reports_are_made():
    assert report_steps(100, 3) == [33, 67, 100]
    assert report_steps(10, 1) == [10]
    assert report_steps(3, 10) == [1, 2, 3]
