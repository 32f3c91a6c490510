"""What MLflow remembers of a run, read back with MLflow's own client; and the tracker that remembers nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from limoe import tracking
from limoe.config import MachineParams
from limoe.errors import UserError
from limoe.tracking import Tracker, open_tracker

ROWS = [{"step": step, "time": 1_000 + step, "loss": 1 / (step + 1), "layer1/placed": 0.5} for step in range(5)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One project folder for this module: creating MLflow's database takes seconds."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def machine(params: Any) -> MachineParams:
    return MachineParams.model_validate({**params.machine.model_dump(), "tracking": "mlflow"})


@pytest.fixture
def client(store: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{store}/mlflow.db")


def test_nothing_is_kept_or_imported_without_tracking(tmp_path: Path, project: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from limoe.config import Params; from limoe.tracking import open_tracker\n"
        "machine = Params.load(Path('params.yaml'), ('machine.tracking=none',)).machine\n"
        f"with open_tracker(machine, Path({str(tmp_path)!r}), 'e', 'r') as tracker:\n"
        "    tracker.log_params({'a': 1}); tracker.set_tags({'a': 1}); tracker.log_rows([{'step': 1, 'time': 1, 'x': 1}])\n"
        "    tracker.log_dict({}, 'a.json'); tracker.log_artifact(Path('a')); tracker.log_dataset('d', 'h', Path('a'))\n"
        "    assert tracker.child('k', 'n', {}).run_id is None and tracker.ended_children() == set()\n"
        "assert tracker.run_id is None and 'mlflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=project)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_was_deleted_is_followed_by_another(store: Path, machine: MachineParams, client: Any) -> None:
    """As one is deleted on MLflow's page while its training waits to go on."""
    with open_tracker(machine, store, "limoe-train", "dense") as first:
        pass
    client.delete_run(first.run_id)
    with open_tracker(machine, store, "limoe-train", "dense", run_id=first.run_id) as second:
        pass
    assert second.run_id != first.run_id
    assert client.get_run(second.run_id).info.status == "FINISHED"


def test_a_run_is_remembered_whole(store: Path, machine: MachineParams, client: Any, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with open_tracker(machine, store, "limoe-train", "dense") as tracker:
        tracker.log_params({"train": {"lr": 0.1, "mixture": {"emoji": 1}}, "list": [1, 2]})
        tracker.set_tags({"git_commit": "abc", "contestant": "dense"})
        tracker.log_rows(ROWS)
        tracker.log_dict({"train": {"lr": 0.1}}, "params.json")
        tracker.log_artifact(tmp_path / "model", "train")
        tracker.log_dataset("prepared", "f" * 64, Path("data/prepared"))
    run = client.get_run(tracker.run_id)
    assert (run.info.run_name, run.info.status) == ("dense", "FINISHED")
    assert run.data.params == {"train.lr": "0.1", "train.mixture.emoji": "1", "list": "[1, 2]"}
    assert run.data.tags["git_commit"] == "abc"
    history = client.get_metric_history(tracker.run_id, "loss")
    assert [(point.step, point.timestamp, point.value) for point in history] == [(r["step"], r["time"], r["loss"]) for r in ROWS]
    assert set(run.data.metrics) == {"loss", "layer1/placed"}
    dataset = run.inputs.dataset_inputs[0].dataset
    assert (dataset.name, dataset.digest, json.loads(dataset.source)) == ("prepared", "f" * 36, {"uri": "data/prepared"})
    artifacts = store / "mlruns" / tracker.run_id / "artifacts"
    assert json.loads((artifacts / "params.json").read_text()) == {"train": {"lr": 0.1}}
    assert (artifacts / "train" / "model" / "config.json").read_text() == "{}"


def test_a_resumed_run_counts_nothing_twice(store: Path, machine: MachineParams, client: Any) -> None:
    with pytest.raises(KeyboardInterrupt), open_tracker(machine, store, "limoe-train", "resumed") as first:
        first.log_rows(ROWS[:3])
        raise KeyboardInterrupt
    assert client.get_run(first.run_id).info.status == "KILLED"
    with open_tracker(machine, store, "limoe-train", "resumed", first.run_id) as second:
        assert client.get_run(first.run_id).info.status == "RUNNING"
        second.log_rows(ROWS)
    assert second.run_id == first.run_id
    assert [point.step for point in client.get_metric_history(first.run_id, "loss")] == [0, 1, 2, 3, 4]
    assert client.get_run(first.run_id).info.status == "FINISHED"


def test_a_run_that_the_store_lost_is_begun_anew(store: Path, machine: MachineParams) -> None:
    with open_tracker(machine, store, "limoe-train", "lost", "0" * 32) as tracker:
        assert tracker.run_id not in (None, "0" * 32)


def test_a_failure_inside_marks_the_run(store: Path, machine: MachineParams, client: Any) -> None:
    with pytest.raises(ZeroDivisionError), open_tracker(machine, store, "limoe-train", "fails") as tracker:
        raise ZeroDivisionError
    assert client.get_run(tracker.run_id).info.status == "FAILED"


def test_many_points_are_sent_in_few_calls(store: Path, machine: MachineParams, client: Any) -> None:
    rows = [{"step": step, "time": step, **{f"m{index}": index for index in range(30)}} for step in range(50)]
    with open_tracker(machine, store, "limoe-train", "many") as tracker:
        calls = []
        inner = tracker._client.log_batch  # type: ignore[attr-defined]
        tracker._client.log_batch = lambda *args, **more: (calls.append(len(more["metrics"])), inner(*args, **more))  # type: ignore[attr-defined]
        tracker.log_rows(rows)
    assert calls == [1000, 500]
    assert len(client.get_metric_history(tracker.run_id, "m29")) == 50


def test_a_deleted_experiment_is_named(store: Path, machine: MachineParams, client: Any) -> None:
    client.delete_experiment(client.create_experiment("gone"))
    with pytest.raises(UserError, match="MLflow experiment 'gone' is deleted: restore it"):
        open_tracker(machine, store, "gone", "run")


def test_a_run_within_a_run_is_found_again_by_its_key(store: Path, machine: MachineParams, client: Any) -> None:
    with pytest.raises(KeyboardInterrupt), open_tracker(machine, store, "sweeps", "one", key="k1") as parent:
        with parent.child("a", "trial a", {"outcome": "ok"}) as ended:
            ended.log_params({"train.lr": 0.1})
        with pytest.raises(KeyboardInterrupt), parent.child("b", "trial b", {}) as cut:
            raise KeyboardInterrupt
        raise KeyboardInterrupt
    with (
        open_tracker(machine, store, "sweeps", "one", key="k1") as again,
        open_tracker(machine, store, "sweeps", "two", key="k2") as other,
    ):
        assert (again.run_id, again.ended_children(), other.ended_children()) == (parent.run_id, {"a"}, set())
        with again.child("b", "trial b", {}) as resumed, other.child("b", "trial b", {}) as foreign:
            assert resumed.run_id == cut.run_id != foreign.run_id
        assert again.ended_children() == {"a", "b"}
    tags = client.get_run(ended.run_id).data.tags
    assert (tags["mlflow.parentRunId"], tags["outcome"], tags["mlflow.runName"]) == (parent.run_id, "ok", "trial a")
    experiment = client.get_experiment_by_name("sweeps").experiment_id
    assert len(client.search_runs([experiment])) == 5


def test_more_runs_than_one_answer_holds_are_all_found(
    store: Path, machine: MachineParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "RUNS_PER_CALL", 2)
    with open_tracker(machine, store, "sweeps", "paged", key="k3") as parent:
        for key in "abcde":
            with parent.child(key, key, {}):
                pass
        assert parent.ended_children() == set("abcde")


TOGETHER = """
import sys
from pathlib import Path
import mlflow  # which takes seconds, and would set the two apart
from limoe.config import Params
from limoe.tracking import open_tracker
machine = Params.load(Path("params.yaml"), ("machine.tracking=mlflow",)).machine
print("ready", flush=True)
sys.stdin.readline()
with open_tracker(machine, Path(sys.argv[1]), "limoe-train", "dense"):
    pass
"""


def test_two_projects_begin_one_store_together(tmp_path: Path, project: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/shared.db"
    begun = [
        subprocess.Popen(
            [sys.executable, "-c", TOGETHER, str(tmp_path / name)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=project,
            env={**os.environ, "MLFLOW_TRACKING_URI": uri},
        )
        for name in ("a", "b")
    ]
    assert all(process.stdout is not None and process.stdout.readline() == "ready\n" for process in begun)
    for process in begun:
        assert process.stdin is not None
        process.stdin.write("now\n")
        process.stdin.flush()
    said = [process.communicate() for process in begun]
    assert [process.returncode for process in begun] == [0, 0], said
    client = MlflowClient(uri)
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]


def test_an_experiment_that_another_has_just_created_is_taken(
    store: Path, machine: MachineParams, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a server, whose clients hold no lock: between looking for it and creating it another process came first."""
    mine = client.create_experiment("theirs")
    found = type(client).get_experiment_by_name
    asked: list[str] = []

    def late(self: Any, name: str) -> Any:
        asked.append(name)
        return found(self, name) if len(asked) > 1 else None

    monkeypatch.setattr(type(client), "get_experiment_by_name", late)
    with open_tracker(machine, store, "theirs", "run") as tracker:
        assert client.get_run(tracker.run_id).info.experiment_id == mine


@pytest.mark.parametrize(
    "uri, file",
    [
        ("sqlite:////srv/mlflow.db", "/srv/mlflow.db"),
        ("sqlite:///runs/mlflow.db?timeout=60", "runs/mlflow.db"),
        ("sqlite+pysqlite:///mlflow.db", "mlflow.db"),
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
        ("http://127.0.0.1:5000", None),
        ("postgresql://me@host/runs", None),
    ],
)
def test_the_file_of_a_store_is_told_from_its_address(uri: str, file: str | None) -> None:
    assert tracking.database(uri) == (None if file is None else Path(file))


def test_any_server_can_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert tracking.store_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert tracking.store_uri(tmp_path) == "http://127.0.0.1:9"


def test_both_trackers_have_one_shape() -> None:
    public = {name for name in vars(Tracker) if not name.startswith("_")} - {"run_id"}
    assert public == {name for name in vars(tracking.MlflowTracker) if not name.startswith("_")}
