"""A project folder in which sweeps of seconds run, and a Prefect server for their flows."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from sweepkit import tiny

SPACE = {"train.lr": {"low": 1e-4, "high": 1e-2, "log": True}}
# One fresh seed for the finalists instead of five: a trial imports torch for seconds. As many cores as it asks for.
DRIVER = """
from limoe.sweep import points, slots, study
points.FINAL_SEEDS = study.FINAL_SEEDS = (1000,)
slots.usable_cores = lambda: 64
import typer
from flows import sweep
typer.run(sweep.main)
"""


OTHER_DRIVER = """
import importlib, sys
from limoe.sweep import slots
slots.usable_cores = lambda: 64
import typer
typer.run(importlib.import_module(sys.argv.pop(1)).main)
"""


def sweep_project(root: Path, data: Path, *overrides: str) -> Path:
    """Make `root` a project folder: params.yaml of `tiny(*overrides)` with SPACE, and the prepared set; returns it."""
    document = tiny("machine.tracking=mlflow", *overrides).model_dump(mode="json") | {"sweep": SPACE}
    root.mkdir(parents=True, exist_ok=True)
    (root / "params.yaml").write_text(yaml.safe_dump(document))
    shutil.copytree(data, root / "data" / "prepared")
    return root


def flow_env(home: Path, api: str | None = None) -> dict[str, str]:
    """The environment of a flow with `home` for Prefect's files, on the server `api` or a temporary one."""
    quiet = {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}  # pyproject.toml is not there to say it
    return {**os.environ, **quiet, **({} if api is None else {"PREFECT_API_URL": api})}


def start_sweep(root: Path, env: dict[str, str], *arguments: str) -> subprocess.Popen[bytes]:
    """Start `python -m flows.sweep` in the folder; what it says goes to flow.log there."""
    with (root / "flow.log").open("ab") as log:
        return subprocess.Popen([sys.executable, "-c", DRIVER, *arguments], cwd=root, env=env, stdout=log, stderr=log)


def run_sweep(root: Path, env: dict[str, str], *arguments: str, code: int = 0) -> str:
    """Run it to its end; what it said this time."""
    log = root / "flow.log"
    before = log.stat().st_size if log.exists() else 0
    assert start_sweep(root, env, *arguments).wait() == code, log.read_text()
    return log.read_bytes()[before:].decode()


def run_flow(name: str, root: Path, env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m flows.NAME`, an ablation or further seeds, in the folder to its end, on as many cores as it asks for."""
    command = [sys.executable, "-c", OTHER_DRIVER, f"flows.{name}", *arguments]
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=200)


def holder(trial: Path) -> int | None:
    """The process that is at work in the trial's directory; None if it has not begun."""
    lock = trial / "lock"
    told = lock.read_text() if lock.exists() else ""
    return int(told.removeprefix("process ")) if told.startswith("process ") else None


def parent_of(pid: int) -> int:
    """The process that started this one."""
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie has ended)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def at_work(sweep: Path) -> dict[Path, int]:
    """The trials of a sweep that have a checkpoint and run now, and their processes."""
    begun = {path.parent.parent for path in sweep.glob("trials/*/checkpoints/*")}
    found = {trial: holder(trial) for trial in begun if not (trial / "outcome.json").exists()}
    return {trial: pid for trial, pid in found.items() if pid is not None and alive(pid)}


@pytest.fixture(scope="session")
def prefect_env(tmp_path_factory: pytest.TempPathFactory, project: Path) -> Iterator[dict[str, str]]:
    """The environment of flows on one server for all tests of a worker."""
    with server(tmp_path_factory.mktemp("prefect"), project) as (env, _):
        yield env


@contextmanager
def server(home: Path, project: Path) -> Iterator[tuple[dict[str, str], subprocess.Popen[bytes]]]:
    """A Prefect server on a free port, with the project's settings and `home` for its files."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    api = f"http://127.0.0.1:{port}/api"
    env = {**flow_env(home), "PREFECT_SERVER_SERVICES_REPOSSESSOR_LOOP_SECONDS": "1"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    with (
        (home / "server.log").open("ab") as log,
        subprocess.Popen(command, cwd=project, env=env, stdout=log, stderr=log) as process,
    ):
        try:
            wait_for_health(api, process)
            yield {**env, "PREFECT_API_URL": api}, process
        finally:
            process.kill()


def wait_for_health(api: str, process: subprocess.Popen[bytes]) -> None:
    """Until the server answers; the test fails if it ends instead."""
    while process.poll() is None:
        try:
            with urllib.request.urlopen(f"{api}/health", timeout=1):
                return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.1)
    pytest.fail("the server did not start")
