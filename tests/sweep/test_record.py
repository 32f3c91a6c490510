"""A sweep in MLflow, read back with MLflow's own client: what a trial leaves there, once, whatever was killed on the way."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sweepkit import spec
from trainkit import recipe

from limoe.config import MachineParams
from limoe.sweep.outcome import Outcome, write_outcome
from limoe.sweep.record import EXPERIMENT, open_recorder, thinned
from limoe.sweep.role import Role, write_role
from limoe.sweep.trial import create

WRITERS = """
import os, sys
from pathlib import Path
import mlflow  # once, before the processes part
from limoe.config import MachineParams
from limoe.sweep.record import open_recorder
root = Path(sys.argv[1])
machine = MachineParams.model_validate_json(sys.argv[2])
gate, begin = os.pipe()
for name in sys.argv[3:]:
    if os.fork() == 0:
        os.close(begin)
        with open_recorder(machine, root, root / "runs" / name, {}) as recorder:
            os.read(gate, 1)  # until the parent closes it: all at once
            recorder.catch_up()
        os._exit(0)
os.close(begin)
sys.exit(sum(os.wait()[1] for _ in sys.argv[3:]))
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One project folder for this module: creating MLflow's database takes seconds."""
    return tmp_path_factory.mktemp("record")


@pytest.fixture
def machine() -> MachineParams:
    return recipe("machine.tracking=mlflow").machine


@pytest.fixture
def client(root: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{root}/mlflow.db")


def ended(folder: Path, name: str, point: int = 0, rows: int = 3, **changes: Any) -> Path:
    """A trial's directory as a trial leaves it; the loss falls by 1 a row, from 9."""
    trial = folder / "trials" / name
    create(trial, spec(seed=point % 2, values={"train.lr": 0.001 * (point + 1)}))
    write_role(trial, Role(point, "search"))
    metrics = [
        {"step": step, "time": step + 1, "contrastive": 9.0 - step, "block1/text_placed": 0.5, "gradient/mlp": 1.0}
        for step in range(rows)
    ]
    reports = [{"step": 6, "seconds": 1.0, "loss": 3.0}, {"step": 12, "seconds": 2.0, "loss": 2.0}]
    (trial / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics))
    (trial / "reports.jsonl").write_text("".join(json.dumps(row) + "\n" for row in reports))
    told = {"kind": "ok", "step": 12, "evidence": "fine", "steps_planned": 12, "loss": 2.0, "scores": {"top1/val": 0.25}}
    write_outcome(trial, Outcome(**(told | changes)))
    return trial


def children(client: Any, parent: str) -> dict[str, Any]:
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    found = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
    assert len({run.data.tags["limoe.key"] for run in found}) == len(found), "recorded twice"
    return {run.data.tags["limoe.key"]: run for run in found}


def parent_of(client: Any, folder: Path) -> Any:
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    key = (folder / "mlflow_key").read_text()
    (run,) = client.search_runs([experiment], f"tags.`limoe.key` = '{key}'")
    return run


def test_a_trial_is_a_run_with_what_was_swept_and_what_became_of_it(root: Path, machine: MachineParams, client: Any) -> None:
    folder = root / "runs" / "one"
    trial = ended(folder, "aaaa", point=4)
    write_outcome(
        ended(folder, "bbbb", point=5),
        Outcome("collapsed", 12, "text-collapse@block3", 12, 1.0, "text", 3, [{"name": "text-collapse@block3"}], 2.5),
    )
    (folder / "report.html").write_text("page")
    with open_recorder(machine, root, folder, {"sweep": {"sampler": "sobol"}}) as recorder:
        recorder.record(trial)
        recorder.record(trial)
    parent = parent_of(client, folder)
    assert (parent.info.run_name, parent.info.status, parent.data.tags["sweep.sampler"]) == ("one", "FINISHED", "sobol")
    assert (parent.data.params, parent.data.metrics) == ({}, {"best": 2.0, "finished": 2.0})
    assert [artifact.path for artifact in client.list_artifacts(parent.info.run_id)] == ["report.html"]
    runs = children(client, parent.info.run_id)
    run = runs["aaaa"]
    assert (run.info.run_name, run.info.status) == ("4 seed 0", "FINISHED")
    assert run.data.params == {"train.lr": "0.005", "seed": "0"}
    assert run.data.tags["outcome"] == "ok"
    assert (run.data.metrics["objective"], run.data.metrics["score/top1/val"]) == (2.0, 0.25)
    assert run.data.metrics["contrastive"] == 7.0
    assert "gradient/mlp" not in run.data.metrics
    curve = client.get_metric_history(run.info.run_id, "objective")
    assert sorted((point.step, point.value) for point in curve) == [(6, 3.0), (12, 2.0)]
    tags = runs["bbbb"].data.tags
    told = (tags["outcome"], tags["modality"], tags["layer"], tags["alarms"], tags["point"])
    assert told == ("collapsed", "text", "3", "text-collapse@block3", "5")


def test_started_again_what_is_missing_is_recorded_and_nothing_twice(root: Path, machine: MachineParams, client: Any) -> None:
    folder = root / "runs" / "again"
    trials = [ended(folder, name, point) for point, name in enumerate("abc")]
    recorder = open_recorder(machine, root, folder, {})
    recorder.record(trials[0])
    cut = recorder._tracker.child("b", "1 seed 1", {})  # killed while it recorded b
    cut.log_params({"seed": 1})
    with open_recorder(machine, root, folder, {}) as later:
        later.catch_up()
    with open_recorder(machine, root, folder, {}):
        pass
    parent = parent_of(client, folder)
    runs = children(client, parent.info.run_id)
    assert {key: run.info.status for key, run in runs.items()} == dict.fromkeys("abc", "FINISHED")
    assert runs["b"].info.run_id == cut.run_id
    progress = client.get_metric_history(parent.info.run_id, "finished")
    assert [point.value for point in progress] == [1, 2, 3]


def test_what_failed_has_no_objective_and_what_is_not_finite_is_left_out(root: Path, machine: MachineParams, client: Any) -> None:
    folder = root / "runs" / "failed"
    trial = ended(folder, "dddd", kind="oom", loss=None, scores={}, evidence="y" * 9000)
    (trial / "metrics.jsonl").write_text('{"step": 1, "time": 1, "contrastive": NaN, "logit_scale": 10.0}\n')
    (trial / "reports.jsonl").unlink()
    with open_recorder(machine, root, folder, {}) as recorder:
        recorder.record(trial)
    parent = parent_of(client, folder)
    assert parent.data.metrics == {"finished": 1.0}
    run = children(client, parent.info.run_id)["dddd"]
    assert set(run.data.metrics) == {"logit_scale", "seconds", "steps_planned"}
    assert run.data.tags["evidence"] == "y" * 5000


def test_a_store_that_is_away_for_a_while_ends_no_sweep(
    root: Path, machine: MachineParams, client: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = root / "runs" / "away"
    trial = ended(folder, "gggg")
    with open_recorder(machine, root, folder, {}) as recorder:
        with monkeypatch.context() as away:
            away.setattr(recorder._tracker, "child", lambda *_: {}["no\n route"])
            recorder.attempt(trial)
        assert capsys.readouterr().out.startswith("MLflow has not taken trial gggg ('no\\n route'): it is recorded at the end")
        assert children(client, recorder._tracker.run_id or "") == {}
    assert set(children(client, parent_of(client, folder).info.run_id)) == {"gggg"}
    assert [point.value for point in client.get_metric_history(parent_of(client, folder).info.run_id, "finished")] == [1]


def test_curves_are_thinned(root: Path, machine: MachineParams, client: Any) -> None:
    folder = root / "runs" / "long"
    trial = ended(folder, "eeee", rows=1001)
    with open_recorder(machine, root, folder, {}) as recorder:
        recorder.record(trial)
    run = children(client, parent_of(client, folder).info.run_id)["eeee"]
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "contrastive")]
    assert (len(steps), steps[0], steps[-1]) == (100, 0, 1000)
    gaps = {later - earlier for earlier, later in itertools.pairwise(steps)}
    assert gaps <= {10, 11}
    assert thinned([1, 2], 100) == [1, 2]


def test_without_tracking_nothing_is_written(tmp_path: Path, machine: MachineParams) -> None:
    folder = tmp_path / "runs" / "quiet"
    trial = ended(folder, "ffff")
    with open_recorder(machine.model_copy(update={"tracking": "none"}), tmp_path, folder, {"a": 1}) as recorder:
        recorder.record(trial)
    assert {path.name for path in folder.iterdir()} == {"trials"}
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}


def test_four_writers_at_a_time_lose_nothing(root: Path, machine: MachineParams, client: Any) -> None:
    names = [f"sweep{number}" for number in range(4)]
    for name in names:
        for point in range(10):
            ended(root / "runs" / name, f"{name}-{point}", point, rows=40)
    client.search_experiments()  # the database is there
    command = [sys.executable, "-c", WRITERS, str(root), machine.model_dump_json(), *names]
    subprocess.run(command, check=True)
    for name in names:
        runs = children(client, parent_of(client, root / "runs" / name).info.run_id)
        assert set(runs) == {f"{name}-{point}" for point in range(10)}
        for run in runs.values():
            assert len(client.get_metric_history(run.info.run_id, "contrastive")) == 40
            assert (run.info.status, set(run.data.params)) == ("FINISHED", {"train.lr", "seed"})
