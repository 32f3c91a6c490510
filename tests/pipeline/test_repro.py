"""`dvc repro`, for real: everything is made, nothing is made twice, and nothing reaches out."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import yaml
from pipelinekit import Workspace, new_workspace

from flows.pipeline import stages
from limoe.config import CONTESTANTS, Params

STAGES = stages(Params.load(Path(__file__).parents[2] / "params.yaml"))
pytestmark = pytest.mark.timeout(900)


def ran(output: str) -> list[str]:
    """The stages that DVC says it ran."""
    return [stage for stage in STAGES if f"Running stage '{stage}'" in output]


def test_one_command_makes_everything(finished: Workspace) -> None:
    root = finished.root
    of_each = [f"runs/{kind}/{who}" for kind in ("train", "evaluate") for who in CONTESTANTS]
    for folder in ("data/prepared", "runs/balance", *of_each):
        assert any((root / folder).iterdir()), folder
    declared = yaml.safe_load((root / "dvc.yaml").read_text())
    assert [name for name in declared["metrics"] + declared["plots"] if not (root / name).is_file()] == []
    rows = json.loads((root / "report" / "metrics.json").read_text())
    assert {frozenset(row) for row in rows} == {frozenset({"model", "set", "metric", "value", "low", "high", "n"})}
    assert {row["model"] for row in rows} >= set(CONTESTANTS)
    assert "limoe" in (root / "report" / "report.md").read_text().lower()
    assert (root / "report" / "report.html").stat().st_size > 100_000


def test_git_sees_the_lock_and_the_small_metrics_and_nothing_else(finished: Workspace) -> None:
    seen = finished.run("git", "status", "--porcelain", "--untracked-files=all").splitlines()
    assert [line[3:] for line in seen] == ["dvc.lock", "report/metrics.json"]


def test_nothing_is_made_twice(finished: Workspace) -> None:
    before = finished.locked()
    output = finished.run("dvc", "repro")
    assert ran(output) == []
    assert "Data and pipelines are up to date." in output
    assert finished.locked() == before


def test_nothing_reached_out(finished: Workspace) -> None:
    assert not finished.notes.exists(), finished.notes.read_text()


def test_the_hook_catches_a_grandchild(finished: Workspace, copy: Callable[[], Workspace]) -> None:
    """The test above is worth something: the same environment notes and refuses an attempt two processes away."""
    workspace = copy()
    attempt = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"
    child = f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {attempt!r}]).returncode)"
    assert "only loopback exists here" in workspace.run(sys.executable, "-c", child, code=1)
    named = "import urllib.request; urllib.request.urlopen('http://example.invalid')"
    assert "only loopback exists here" in workspace.run(sys.executable, "-c", named, code=1)
    assert [line.split(" by ")[0] for line in workspace.notes.read_text().splitlines()] == [
        "socket.getaddrinfo '192.0.2.1'",
        "socket.getaddrinfo 'example.invalid'",
    ]
    loopback = "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname())"
    workspace.run(sys.executable, "-c", loopback)


def test_dvc_shows_the_small_figures(finished: Workspace) -> None:
    shown = json.loads(finished.run("dvc", "metrics", "show", "--json"))[""]["data"]
    figures = {name: len(content["data"]) for name, content in shown.items()}
    of_each = {f"runs/{kind}/{who}/metrics.json" for kind in ("train", "evaluate") for who in CONTESTANTS}
    assert set(figures) == {"runs/balance/balance.json", *of_each}
    assert max(figures.values()) <= 12


def test_an_experiment_reruns_what_it_changes_and_shows_the_difference(copy: Callable[[], Workspace]) -> None:
    workspace = copy()
    workspace.commit("the first results")
    output = workspace.run("dvc", "exp", "run", "-S", "evaluate.templates=['not the {}']", "evaluate@dense")
    assert ran(output) == ["evaluate@dense"]
    difference = json.loads(workspace.run("dvc", "metrics", "diff", "--json"))
    assert "runs/evaluate/dense/metrics.json" in difference
    assert "runs/train/dense/metrics.json" not in difference


def test_the_flow_runs_the_same_pipeline_to_the_same_bytes(finished: Workspace, tmp_path: Path) -> None:
    """Prefect without a server, in a workspace of its own: two runs from nothing leave byte-identical outs."""
    workspace = new_workspace(finished.root, tmp_path / "home")
    output = workspace.run(sys.executable, "-m", "flows.pipeline")
    assert ran(output) == list(STAGES)
    assert workspace.locked() == finished.locked()
    assert "Task run 'train@limoe' - train limoe: step 5 of 30" in output, "the stages' own lines are in the run's log"
    with closing(sqlite3.connect(workspace.root / ".prefect" / "prefect.db")) as database:
        artifacts = dict(database.execute("select key, data from artifact"))
    assert artifacts.keys() >= {"comparison", "report", "train-limoe-curves", "train-limoe-experts", "balance-tokens"}
    assert "unseen-style" in artifacts["comparison"]
    assert not workspace.notes.exists(), workspace.notes.read_text()


def test_a_users_mistake_ends_the_flow_with_its_sentence_and_without_a_retry(copy: Callable[[], Workspace]) -> None:
    workspace = copy()
    workspace.change({"model": {"clip": {"text_depth": 2000}}})  # only the stage can see that no text tower matches
    output = workspace.run(sys.executable, "-m", "flows.pipeline", code=2)
    sentence = "model.clip.text_depth = 2000: no text tower makes CLIP cost"
    assert f"error: train@clip: {sentence}" in output
    assert output.count("Running stage 'train@clip'") == 1
    left = json.loads((workspace.root / ".limoe" / "errors" / "train-clip.json").read_text())
    assert left["kind"] == "user"
    assert left["sentence"].startswith(sentence)


def test_parameters_that_cannot_be_read_end_the_flow_before_anything_runs(copy: Callable[[], Workspace]) -> None:
    workspace = copy()
    workspace.change({"train": {"lr": -1}})
    output = workspace.run(sys.executable, "-m", "flows.pipeline", code=2)
    assert "error: parameters: params.yaml: train.lr = -1 is not allowed: input should be greater than 0" in output
    assert "Running stage" not in output
