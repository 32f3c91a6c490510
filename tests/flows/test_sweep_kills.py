"""Sweeps for real, killed and continued, on this machine and on a Dask cluster: nothing is lost and nothing redone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from flowkit import alive, at_work, parent_of, run_sweep, start_sweep, sweep_project
from sweepkit import wait_for

from limoe.sweep.outcome import read_outcome
from limoe.sweep.trial import START, create, read_spec, run_trial

NEVER = ("placed=0", "effective=0", "dead=1", "chance=100", "diverged=100", "logit_scale=100")  # no alarm, whatever the processor
SLOW = ("train.steps=60", *(f"train.health.{name}" for name in NEVER))  # a second and a half, in which a trial can be met
LONG = 150  # seconds, where the cores are shared with other tests


def launches(sweep: Path) -> list[int]:
    """How often each trial was started, in the order in which they ended."""
    ended = sorted(sweep.glob("trials/*/outcome.json"), key=lambda path: path.stat().st_mtime_ns)
    return [(path.parent / "log.txt").read_text().count(START) for path in ended]


def recorded(root: Path) -> dict[str, Any]:
    """The trials' runs in MLflow by the names of their directories, each there once."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiment = client.get_experiment_by_name("limoe-sweep")
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert [run.info.status for run in parents] == ["FINISHED"]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    by_key = {run.data.tags["limoe.key"]: run for run in children}
    assert len(by_key) == len(children)
    return by_key


def states(env: dict[str, str], what: str) -> list[str]:
    """The states of all runs of this kind that the server knows."""
    request = urllib.request.Request(
        f"{env['PREFECT_API_URL']}/{what}/filter", data=b"{}", headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        return [run["state_type"] for run in json.load(answer)]


def test_a_killed_trial_and_a_killed_flow_go_on(tiny_data: Path, prefect_env: dict[str, str], tmp_path: Path) -> None:
    root = sweep_project(tmp_path / "project", tiny_data, *SLOW)
    sweep = root / "runs" / "sweeps" / "k"
    arguments = ("k", "--trials", "1", "--seeds", "1")
    flow = start_sweep(root, prefect_env, *arguments)
    wait_for("the first trial", lambda: bool(at_work(sweep)), LONG)
    ((first, pid),) = at_work(sweep).items()
    os.kill(pid, signal.SIGKILL)  # the flow starts it again
    wait_for("the second trial", lambda: first not in at_work(sweep) and bool(at_work(sweep)), LONG)
    (pid,) = at_work(sweep).values()
    flow.kill()
    flow.wait()
    wait_for("the end of its trial", lambda: not alive(pid), 10)
    assert [path.parent for path in sweep.glob("trials/*/outcome.json")] == [first]
    output = run_sweep(root, prefect_env, *arguments)
    assert "next: limoe sensitivity k" in output
    assert launches(sweep) == [2, 2]
    trials = sorted(path.parent for path in sweep.glob("trials/*/outcome.json"))
    assert {read_outcome(trial).kind for trial in trials} == {"ok"}  # type: ignore[union-attr]
    assert sorted(recorded(root)) == [trial.name for trial in trials]
    apart = tmp_path / "apart"
    create(apart, read_spec(first))
    assert run_trial(apart, root / "data" / "prepared").loss == read_outcome(first).loss  # type: ignore[union-attr]


def test_two_dask_workers_share_a_sweep_and_one_may_be_killed(
    tiny_data: Path, prefect_env: dict[str, str], tmp_path: Path
) -> None:
    root = sweep_project(tmp_path / "project", tiny_data, *SLOW)
    sweep = root / "runs" / "sweeps" / "d"
    before = len(states(prefect_env, "flow_runs"))
    flow = start_sweep(root, prefect_env, "d", "--trials", "2", "--seeds", "1", "--runner", "dask", "--concurrency", "2")
    wait_for("two trials at a time", lambda: len(at_work(sweep)) == 2, LONG)
    workers = {parent_of(pid) for pid in at_work(sweep).values()}
    assert len(workers - {flow.pid}) == 2
    pid = next(iter(at_work(sweep).values()))
    os.kill(parent_of(pid), signal.SIGKILL)
    wait_for("the end of its trial", lambda: not alive(pid), 10)
    assert flow.wait() == 0, (root / "flow.log").read_text()
    assert sorted(launches(sweep)) == [1, 1, 1, 2]
    assert len(recorded(root)) == 4
    assert len(states(prefect_env, "flow_runs")) == before + 1


def test_a_deployment_runs_through_a_worker(tiny_data: Path, prefect_env: dict[str, str], tmp_path: Path, project: Path) -> None:
    root = sweep_project(tmp_path / "project", tiny_data, "train.max_bad_steps=1")
    (root / "space.yaml").write_text("train.lr: {choices: [1.0e+30]}")  # no recipe comes of that, so no trial on fresh seeds
    params = {"name": "w", "trials": 1, "seeds": 1, "space": "space.yaml", "params": str(root / "params.yaml")}
    given = [part for key, value in params.items() for part in ("--param", f"{key}={value}")]
    worker = ["worker", "start", "--pool", "limoe", "--run-once"]  # which looks once: a server under load may offer the run later
    for arguments in (
        ["work-pool", "create", "limoe", "--type", "process"],
        ["deploy", "--name", "limoe-sweep"],
        ["deployment", "run", "limoe-sweep/limoe-sweep", *given],
        *[worker] * 3,
    ):
        command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
        done = subprocess.run(command, cwd=project, env=prefect_env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        if found := list((root / "runs" / "sweeps" / "w").glob("trials/*/outcome.json")):
            break
    assert len(found) == 1, done.stdout + done.stderr
    (trial,) = found
    outcome = read_outcome(trial.parent)
    assert outcome is not None
    assert outcome.kind == "diverged"
    assert (root / "runs" / "sweeps" / "w" / "report.html").exists()
    assert list(recorded(root)) == [trial.parent.name]
