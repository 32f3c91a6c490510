"""The command line: its help, its exit codes, one sentence an error, and what a failed stage leaves behind."""

from __future__ import annotations

import errno
import json
import signal
import sqlite3
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.testing
import yaml

from limoe import cli
from limoe.config import Params
from limoe.errors import UserError
from limoe.interrupt import Interrupted
from limoe.paths import Paths


@pytest.fixture
def workspace(tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the project's params.yaml, and it is the current one."""
    (tmp_path / "params.yaml").write_text((project / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[..., None]], None]:
    """Put a function in the place of a stage."""

    def put(name: str, run: Callable[..., None]) -> None:
        module = types.ModuleType(f"limoe.stages.{name}")
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, f"limoe.stages.{name}", module)

    return put


def limoe(*arguments: str) -> Any:
    return typer.testing.CliRunner().invoke(cli.app, list(arguments), env={"COLUMNS": "200", "NO_COLOR": "1"})


def raising(error: BaseException) -> Callable[..., None]:
    def run(*_: Any) -> None:
        raise error

    return run


def test_help_lists_the_stages_in_their_order_and_the_tools() -> None:
    shown = limoe("--help").stdout
    order = [shown.index(f"│ {name} ") for name in ("prepare", "balance", "train", "evaluate", "compare", "doctor", "params")]
    assert order == sorted(order)
    assert limoe().exit_code == 2
    assert "deps" in shown
    assert "sources" in shown


def test_help_needs_no_heavy_import(project: Path) -> None:
    script = "import sys, limoe.cli; print(sorted({'torch', 'mlflow', 'prefect', 'pandas'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=project).stdout
    assert shown == "[]\n"


@pytest.mark.parametrize("name", ["prepare", "balance", "compare"])
def test_a_stage_gets_the_parameters_and_the_paths(workspace: Path, stage: Any, name: str) -> None:
    calls: list[tuple[Params, Paths]] = []
    stage(name, lambda *arguments: calls.append(arguments))
    result = limoe(name, "--set", "train.lr=1e-3", "--set", "train.seed=7")
    assert (result.exit_code, len(calls)) == (0, 1)
    params, paths = calls[0]
    assert (params.train.lr, params.train.seed, paths) == (0.001, 7, Paths(Path()))
    assert result.stderr.startswith("next: ")


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_a_stage_of_a_contestant_gets_its_name_too(workspace: Path, stage: Any, name: str) -> None:
    calls: list[Any] = []
    stage(name, lambda *arguments: calls.append(arguments[2]))
    assert limoe(name, "clip", "--params", str(workspace / "params.yaml")).exit_code == 0
    assert calls == ["clip"]


def test_only_known_contestants_are_trained(workspace: Path, stage: Any) -> None:
    stage("train", lambda *_: pytest.fail("it ran"))
    wrong = limoe("train", "vit")
    assert wrong.exit_code == 2
    assert "'limoe', 'dense', 'clip'" in wrong.stderr


@pytest.mark.parametrize(
    "error,code,kind,sentence",
    [
        (UserError("data/prepared: no such file"), 2, "user", "data/prepared: no such file"),
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/a"),
            1,
            "machine",
            "no space left on the disk (runs/a): free",
        ),
        (RuntimeError("I/O error: No space left on device (os error 28)"), 1, "machine", "no space left on the disk: free some"),
        (RuntimeError("(sqlite3.OperationalError) database or disk is full"), 1, "machine", "no space left on the disk: free"),
        (sqlite3.DatabaseError("file is not a database"), 1, "machine", "the MLflow store: file is not a database; mend"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            1,
            "machine",
            "not enough memory: set train.micro_batch to auto, or lower train.batch",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "runs"), 1, "machine", "not permitted (runs): Permission denied"),
        (OSError(errno.EROFS, "Read-only file system", "runs"), 1, "machine", "not permitted (runs): Read-only file system"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), 1, "machine", "ConnectionRefusedError: [Errno 111] refused"),
        (MemoryError(), 1, "machine", "not enough memory: set train.micro_batch to auto, or lower train.batch"),
        (ModuleNotFoundError("no", name="open_clip"), 2, "user", "the package open_clip is not installed"),
        (ValueError("first\nsecond"), 1, "bug", "ValueError: first second; this is a bug, and --debug shows where"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_an_error_is_one_sentence_and_a_code(
    workspace: Path, stage: Any, error: Exception, code: int, kind: str, sentence: str
) -> None:
    stage("train", raising(error))
    result = limoe("train", "limoe")
    assert result.exit_code == code
    assert result.stderr.startswith(f"error: {sentence}")
    assert result.stderr.count("\n") == 1
    left = json.loads(Paths(workspace).error("train-limoe").read_text())
    assert (left["kind"], f"error: {left['sentence']}\n") == (kind, result.stderr)
    assert "Traceback" in limoe("train", "limoe", "--debug").stderr


def test_what_lies_behind_an_error_decides_whose_fault_it_is(workspace: Path, stage: Any) -> None:
    def run(*_: Any) -> None:
        try:
            raise ConnectionResetError("by peer")
        except ConnectionResetError as error:
            raise RuntimeError("the tracking server went away") from error

    stage("prepare", run)
    assert limoe("prepare").exit_code == 1
    assert json.loads(Paths(workspace).error("prepare").read_text()) == {
        "kind": "machine",
        "sentence": "RuntimeError: the tracking server went away",
    }


def test_a_really_full_disk(workspace: Path, stage: Any) -> None:
    def run(*_: Any) -> None:
        with Path("/dev/full").open("wb", buffering=0) as handle:
            handle.write(b"x")

    stage("prepare", run)
    result = limoe("prepare")
    assert (result.exit_code, "no space left on the disk" in result.stderr) == (1, True)


def test_a_success_removes_what_a_failure_left(workspace: Path, stage: Any) -> None:
    stage("prepare", raising(UserError("no")))
    limoe("prepare")
    assert Paths(workspace).error("prepare").exists()
    stage("prepare", lambda *_: None)
    limoe("prepare")
    assert not Paths(workspace).error("prepare").exists()


@pytest.mark.parametrize(
    "interruption,code,sentence",
    [
        (
            KeyboardInterrupt(),
            130,
            "interrupted by SIGINT: everything already written is valid; run it again (a training goes on",
        ),
        (Interrupted(signal.SIGINT, "step 3 of 9 is saved"), 130, "interrupted by SIGINT: step 3 of 9 is saved"),
        (Interrupted(signal.SIGTERM), 143, "interrupted by SIGTERM: everything already written is valid"),
    ],
)
def test_an_interruption_is_no_error(workspace: Path, stage: Any, interruption: Any, code: int, sentence: str) -> None:
    stage("train", raising(interruption))
    result = limoe("train", "limoe")
    assert (result.exit_code, result.stderr.count("\n")) == (code, 1)
    assert result.stderr.startswith(sentence)
    assert not Paths(workspace).error("train-limoe").exists()


def test_sigterm_ends_any_stage_with_143(workspace: Path, stage: Any) -> None:
    stage("prepare", lambda *_: signal.raise_signal(signal.SIGTERM))
    assert limoe("prepare").exit_code == 143


def test_a_folder_that_takes_no_error_file_hides_no_sentence(workspace: Path, stage: Any) -> None:
    (workspace / ".limoe").write_text("a file where a folder belongs")
    stage("prepare", lambda *_: None)
    result = limoe("prepare")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert ".limoe" in result.stderr


def test_wrong_parameters_reach_no_stage(workspace: Path, stage: Any) -> None:
    stage("train", raising(AssertionError("the stage was called")))
    result = limoe("train", "dense", "--set", "train.lr=-1")
    assert (result.exit_code, "train.lr = -1 is not allowed" in result.stderr) == (2, True)
    assert json.loads(Paths(workspace).error("train-dense").read_text())["kind"] == "user"
    missing = limoe("prepare", "--params", "elsewhere/params.yaml")
    assert (missing.exit_code, "elsewhere/params.yaml: no such file" in missing.stderr) == (2, True)
    assert not (workspace / "elsewhere").exists()


def test_params_shows_what_is_understood_and_merges_an_overlay(workspace: Path, project: Path) -> None:
    shown = yaml.safe_load(limoe("params", "--set", "train.lr=1e-3").stdout)
    assert shown["train"]["lr"] == 0.001
    assert Params.load(workspace / "params.yaml") == Params.load(project / "params.yaml")
    merged = limoe("params", "--overlay", str(project / "overlays" / "debug.yaml"))
    assert yaml.safe_load(merged.stdout) == Params.load(workspace / "params.yaml").model_dump(mode="json")
    assert Params.load(workspace / "params.yaml").train.steps == 30


def test_deps_finds_and_mends_a_stage_that_lists_the_wrong_code(workspace: Path, project: Path) -> None:
    (workspace / "dvc.yaml").write_text((project / "dvc.yaml").read_text())
    assert limoe("deps", "--write").exit_code == 0
    text = (workspace / "dvc.yaml").read_text()
    (workspace / "dvc.yaml").write_text(text.replace("      - limoe/stages/prepare.py\n", "      - limoe/cli.py\n"))
    stale = limoe("deps")
    assert (stale.exit_code, "the code deps of prepare are not what they import" in stale.stderr) == (2, True)
    assert limoe("deps", "--write").exit_code == 0
    assert (workspace / "dvc.yaml").read_text() == text
    assert limoe("deps").exit_code == 0


def test_sources_are_written_as_they_are_installed(workspace: Path, project: Path) -> None:
    missing = limoe("sources")
    assert (missing.exit_code, "sources.yaml" in missing.stderr) == (2, True)
    assert limoe("sources", "--write").exit_code == 0
    assert (workspace / "data" / "sources.yaml").read_text() == (project / "data" / "sources.yaml").read_text()
