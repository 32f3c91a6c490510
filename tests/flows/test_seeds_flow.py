"""The flow of further seeds for real, on trainings of a second; and that a comparison takes what it leaves."""

import pytest
from flowkit import run_flow, sweep_project

from flows.seeds import Request
from limoe.config import Params
from limoe.errors import UserError
from limoe.overlay import merge_overlay
from limoe.sweep import slots


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_data):
    return sweep_project(tmp_path_factory.mktemp("seeds"), tiny_data)


def test_it_trains_tells_the_next_step_and_goes_on(folder, prefect_env):
    from mlflow import MlflowClient

    first = run_flow("seeds", folder, prefect_env, "--seeds", "3", "--contestants", "limoe", "--concurrency", "2")
    assert first.returncode == 0, first.stderr + first.stdout
    assert "next: limoe params --overlay runs/sweeps/seeds/compare.yaml, then dvc repro" in first.stderr
    merge_overlay(folder / "params.yaml", folder / "runs" / "sweeps" / "seeds" / "compare.yaml")
    models = Params.load(folder / "params.yaml").compare.models
    assert set(models) == {"limoe-seed1", "limoe-seed2"}
    assert all((folder / model.path / "model" / "model.safetensors").is_file() for model in models.values())
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("limoe-sweep").experiment_id])
    assert [run.data.tags["group"] for run in runs if "mlflow.parentRunId" in run.data.tags] == ["limoe", "limoe"]
    parent = next(run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    assert "compare.yaml" in {one.path for one in client.list_artifacts(parent.info.run_id)}
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("runs/sweeps/seeds/trials/*/outcome.json")}
    again = run_flow("seeds", folder, prefect_env, "--contestants", "limoe")
    assert again.returncode == 0, again.stderr
    assert len(stamps) == 2
    assert {path: path.stat().st_mtime_ns for path in folder.glob("runs/sweeps/seeds/trials/*/outcome.json")} == stamps


def test_what_is_wrong_is_one_sentence(folder, prefect_env):
    wrong = run_flow("seeds", folder, prefect_env, "--contestants", "limoe,dence")
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines()[-1] == "error: contestant 'dence': no such contestant; did you mean dense?"


def test_a_request_is_checked_before_anything_runs(folder, monkeypatch):
    monkeypatch.setattr(slots, "usable_cores", lambda: 1)
    with pytest.raises(UserError, match="cores"):
        Request(params=str(folder / "params.yaml"), concurrency=2).open()
