"""SIGKILL in the middle of a training: never two trainers, and in the end the weights of an undisturbed run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pipelinekit import Workspace, copy_of

pytestmark = pytest.mark.timeout(600)
STEPS = 120
CHANGES = {"train": {"lr": 0.001, "steps": STEPS}}


@pytest.fixture(scope="module")
def undisturbed(finished: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """train@limoe with another learning rate, run to its end."""
    workspace = copy_of(finished, tmp_path_factory.mktemp("undisturbed") / "home")
    workspace.change(CHANGES)
    workspace.run("dvc", "repro", "train@limoe")
    return workspace


def wait_for(what: str, found: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.05)


def checkpoints(workspace: Workspace) -> list[Path]:
    return sorted((workspace.root / ".limoe" / "work").glob("train-limoe-*/checkpoints/step-*"))


def trainer(workspace: Workspace) -> int:
    """The process that holds the training's lock."""
    return int((workspace.root / ".limoe" / "work" / "train-limoe.lock").read_text().removeprefix("process "))


def running(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_another_learning_rate_reruns_the_training_and_not_what_came_before(finished: Workspace, undisturbed: Workspace) -> None:
    before, after = finished.locked(), undisturbed.locked()
    assert after["train@limoe"] != before["train@limoe"]
    assert undisturbed.timing("prepare") == finished.timing("prepare"), "prepare did not run again"
    assert {name: outs for name, outs in after.items() if name != "train@limoe"} == {
        name: outs for name, outs in before.items() if name != "train@limoe"
    }
    assert undisturbed.timing("train-limoe")["steps"] == STEPS
    status = undisturbed.run("dvc", "status", "prepare", "balance", "train@limoe")
    assert "up to date" in status


def test_killed_twice_and_started_again(finished: Workspace, undisturbed: Workspace, tmp_path: Path) -> None:
    workspace = copy_of(finished, tmp_path / "home")
    workspace.change(CHANGES)
    log = tmp_path / "log"
    dvc, child = stopped_after(workspace, 0, log)
    dvc.kill()
    os.kill(child, signal.SIGKILL)
    dvc.wait()
    wait_for("the end of the trainer", lambda: not running(child))
    done = last_checkpoint(workspace)

    dvc, child = stopped_after(workspace, done, log)
    dvc.kill()
    dvc.wait()
    assert running(child), "SIGKILL of dvc alone leaves its child alive"
    refusal = workspace.run("dvc", "repro", "train@limoe", code=None)
    assert re.search(rf"training limoe is already running: process {child} holds \S+train-limoe\.lock", refusal)
    assert trainer(workspace) == child
    os.kill(child, signal.SIGCONT)
    wait_for("the end of the training", lambda: not running(child))
    assert f"continuing from step {done} of {STEPS}" in log.read_text()
    assert min(steps_told(log.read_text())) == done + 5, "it went on from the last checkpoint"

    output = workspace.run("dvc", "repro", "train@limoe")
    assert f"continuing from step {STEPS} of {STEPS}" in output
    assert steps_told(output) == [], "nothing was left to train"
    assert workspace.locked()["train@limoe"] == undisturbed.locked()["train@limoe"]
    assert checkpoints(workspace) == [], "resumable state is gone once the stage is complete"


def steps_told(output: str) -> list[int]:
    """The steps at which a training told how it goes."""
    return [int(step) for step in re.findall(r"train limoe: step (\d+) of", output)]


def stopped_after(workspace: Workspace, step: int, log: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start `dvc repro` and stop its trainer once there is a checkpoint after `step`, so that it stays in the middle."""
    dvc = workspace.start(log, "dvc", "repro", "train@limoe")
    wait_for(f"a checkpoint after step {step}", lambda: last_checkpoint(workspace) > step)
    child = trainer(workspace)
    os.kill(child, signal.SIGSTOP)
    return dvc, child


def last_checkpoint(workspace: Workspace) -> int:
    """Its step, 0 if there is none."""
    return max((int(path.name.removeprefix("step-")) for path in checkpoints(workspace)), default=0)
