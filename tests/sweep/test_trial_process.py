"""Trials as subprocesses: killed, out of memory, locked out; and what is said of one that left no outcome."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from sweepkit import timeless, trial, wait_for

from limoe.errors import UserError
from limoe.files import exclusive_lock
from limoe.sweep.trial import LOG, START, Outcome, conclude, launch, read_outcome, run_trial, write_outcome


def test_a_killed_trial_goes_on_and_ends_the_same(tiny_data, tmp_path):
    settings = ("train.steps=60", "train.cooldown=2")
    undisturbed = trial(tmp_path / "undisturbed", *settings, reports=5)
    assert run_trial(undisturbed, tiny_data).kind == "ok"
    folder = trial(tmp_path / "killed", *settings, reports=5)
    process = launch(folder, tiny_data, threads=1)
    wait_for("a checkpoint", lambda: any((folder / "checkpoints").glob("step-*/state.json")))
    process.send_signal(signal.SIGKILL)
    outcome = conclude(folder, process.wait())
    assert (outcome.kind, outcome.evidence) == ("killed", "killed by SIGKILL")
    assert 0 < outcome.step < 60
    assert read_outcome(folder) == outcome
    with (folder / "reports.jsonl").open("a") as handle:
        handle.write('{"step": 36, "lo')  # what another kill might have left
    process = launch(folder, tiny_data, threads=1)
    assert read_outcome(folder) is None, "it runs again"
    assert conclude(folder, process.wait()).kind == "ok"
    assert "continuing from step" in (folder / LOG).read_text().rpartition(START)[2]
    assert timeless(folder) == timeless(undisturbed)
    assert not (folder / "checkpoints").exists()


def test_a_trial_that_is_asked_to_end_saves_and_goes_on(tiny_data, tmp_path):
    folder = trial(tmp_path / "asked", "train.steps=60", "train.cooldown=2", "train.checkpoints.every=60")
    process = launch(folder, tiny_data, threads=1)
    wait_for("a row of metrics", lambda: (folder / "metrics.jsonl").exists() and (folder / "metrics.jsonl").stat().st_size > 0)
    process.send_signal(signal.SIGTERM)
    outcome = conclude(folder, process.wait())
    assert (process.returncode, outcome.kind, outcome.evidence) == (143, "killed", "interrupted by SIGTERM")
    (checkpoint,) = (folder / "checkpoints").glob("step-*")
    step = int(checkpoint.name.removeprefix("step-"))
    assert 0 < step < 60
    assert f"interrupted by SIGTERM: step {step} of 60 is saved" in (folder / LOG).read_text()
    process = launch(folder, tiny_data, threads=1)
    assert conclude(folder, process.wait()).kind == "ok"
    assert f"continuing from step {step} of 60" in (folder / LOG).read_text()


def test_too_little_memory_is_an_outcome(tiny_data, tmp_path):
    folder = trial(tmp_path / "large", "model.tower.width=1024", "model.moe.experts=32")  # 3 GB of weights
    process = launch(folder, tiny_data, threads=1, memory_mb=500)
    returncode = process.wait()
    outcome = conclude(folder, returncode)
    assert (returncode, outcome.kind, outcome.step, outcome.steps_planned) == (0, "oom", 0, 12)
    assert "allocate memory" in outcome.evidence
    assert outcome.loss is None


def test_one_process_at_a_time(tiny_data, tmp_path):
    folder = trial(tmp_path / "trial")
    with exclusive_lock(folder / "lock", "the test"):
        with pytest.raises(UserError, match=rf"trial trial is already running: process {os.getpid()} holds"):
            run_trial(folder, tiny_data)
        with pytest.raises(UserError, match="already running"):
            conclude(folder, 1)
        assert read_outcome(folder) is None
        process = launch(folder, tiny_data, threads=1)  # after an orphan: it waits
        assert process.poll() is None
        write_outcome(folder, Outcome("ok", 12, "the orphan's", 12))
    assert process.wait() == 0
    assert conclude(folder, 0).evidence == "the orphan's"


def test_a_child_sees_its_own_gpu_and_threads(tiny_data, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda command, **options: started.append((command, options)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    folder = trial(tmp_path / "trial")
    launch(folder, tiny_data, threads=3, gpu=1)
    launch(folder, tiny_data, threads=1)
    assert [options["env"]["CUDA_VISIBLE_DEVICES"] for _, options in started] == ["6", ""]
    assert [options["env"]["OMP_NUM_THREADS"] for _, options in started] == ["3", "1"]
    assert all(options["start_new_session"] for _, options in started)
    with pytest.raises(UserError, match=r"train.threads is 2, and a trial may have 1 here"):
        launch(trial(tmp_path / "more", "train.threads=2"), tiny_data, threads=1)


@pytest.mark.parametrize(
    "returncode,log,kind,evidence",
    [
        (-9, "train limoe: step 2 of 12\n", "killed", "killed by SIGKILL"),
        (-15, "", "killed", "killed by SIGTERM"),
        (130, "interrupted by SIGINT: everything already written is valid\n", "killed", "interrupted by SIGINT"),
        (143, "interrupted by SIGTERM: step 4 of 12 is saved\n", "killed", "interrupted by SIGTERM"),
        (-6, "terminate called after throwing an instance of 'std::bad_alloc'\n", "oom", "std::bad_alloc"),
        (1, "libgomp: Thread creation failed: Resource temporarily unavailable\n", "oom", "Thread creation failed"),
        (1, "a\nModuleNotFoundError: No module named 'x'\n\n", "error", "log ends with: ModuleNotFoundError"),
        (1, "MemoryError\n" + START + "KeyError: 1\n", "error", "KeyError"),
        (-200, "", "killed", "killed by signal 200"),
        (3, None, "error", "ended with code 3 and without an outcome; its log ends with: nothing"),
    ],
)
def test_what_left_no_outcome(tmp_path, returncode, log, kind, evidence):
    folder = trial(tmp_path / "trial")
    (folder / "metrics.jsonl").write_text('{"step": 2}\n{"step": 4}\n{"st')
    (folder / "checkpoints").mkdir()
    if log is not None:
        (folder / LOG).write_text(START + log)
    outcome = conclude(folder, returncode)
    assert (outcome.kind, outcome.step, outcome.steps_planned) == (kind, 4, 12)
    assert evidence in outcome.evidence
    assert read_outcome(folder) == outcome
    assert conclude(folder, 0) == outcome, "said once"
    assert (folder / "checkpoints").exists() == (kind == "killed"), "a killed one may be run again"


def test_the_command(tiny_data, tmp_path):
    folder = trial(tmp_path / "trial")
    write_outcome(folder, Outcome("pruned", 3, "by hand", 12))
    command = [sys.executable, "-m", "limoe.cli", "trial"]
    done = subprocess.run([*command, str(folder), "--data", str(tiny_data)], capture_output=True, text=True, check=True)
    assert done.stdout == "pruned: step 3 of 12: by hand\n"
    assert f"next: cat {folder / 'outcome.json'}" in done.stderr
    missing = subprocess.run([*command, str(tmp_path / "no")], capture_output=True, text=True, check=False)
    assert missing.returncode == 2
    assert "no such file" in missing.stderr
