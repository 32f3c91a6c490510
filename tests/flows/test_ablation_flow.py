"""The ablation's flow for real, on two variants of a second each; what cannot be run is refused before anything is."""

import shutil

import pyarrow.parquet as pq
import pytest
from flowkit import run_flow, sweep_project

from flows.ablation import Request
from limoe.errors import UserError
from limoe.sweep import slots


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_data):
    return sweep_project(tmp_path_factory.mktemp("ablation"), tiny_data)


def check_runs(folder):
    """Its trials are runs in MLflow that name their variants, and the sweep's run holds table and page."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("limoe-sweep").experiment_id])
    assert sorted(run.data.tags["group"] for run in runs if "mlflow.parentRunId" in run.data.tags) == ["full", "k/2"]
    parent = next(run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    assert {"ablation.csv", "report.html"} <= {one.path for one in client.list_artifacts(parent.info.run_id)}


def test_it_trains_reports_and_goes_on(folder, prefect_env):
    first = run_flow("ablation", folder, prefect_env, "--only", "k", "--seeds", "1", "--concurrency", "2")
    assert first.returncode == 0, first.stderr + first.stdout
    place = folder / "runs" / "sweeps" / "ablation"
    assert {path.name for path in place.iterdir()} >= {"ablation.csv", "report.html", "report.md", "trials.parquet", "plots"}
    table = pq.read_table(place / "trials.parquet")
    assert sorted(table["group"].to_pylist()) == ["full", "k/2"]
    assert set(table["kind"].to_pylist()) == {"ok"}
    assert all(0 < placed <= 1 for placed in table["end/text_placed"].to_pylist())
    assert set(table["end/experts"].to_pylist()) == {4.0}
    assert [line.split(",")[0] for line in (place / "ablation.csv").read_text().splitlines()] == ["variant", "full", "k/2"]
    check_runs(folder)
    stamps = {path: path.stat().st_mtime_ns for path in place.glob("trials/*/outcome.json")}
    again = run_flow("ablation", folder, prefect_env, "--only", "k", "--seeds", "1")
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in place.glob("trials/*/outcome.json")} == stamps


def test_what_is_wrong_is_one_sentence(folder, prefect_env):
    wrong = run_flow("ablation", folder, prefect_env, "--only", "priorty")
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines()[-1] == "error: ablation: 'priorty' is no group and no variant; did you mean priority?"


def test_a_request_is_checked_before_anything_runs(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(slots, "usable_cores", lambda: 1)
    file = str(folder / "params.yaml")
    with pytest.raises(UserError, match="overlays"):
        Request(params=file, budget="stres").resolve()
    with pytest.raises(UserError, match="cores"):
        Request(params=file, concurrency=2).resolve()
    shutil.copy(file, tmp_path / "params.yaml")
    with pytest.raises(UserError, match="no prepared data"):
        Request(params=str(tmp_path / "params.yaml")).resolve()
    with pytest.raises(UserError, match="seeds = 0"):
        Request(params=file, seeds=0).open()
