"""What a sweep's flow refuses before anything runs, what it tells, and how it works off a study whose trials are made up."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flowkit import sweep_project
from sweepkit import wait_for

from flows import trials
from flows.progress import PlannedProgress, Progress, conclusion
from flows.request import Request, with_budget
from flows.trials import Interrupted, check_runner, run_all, run_work
from limoe.config import Params
from limoe.errors import UserError
from limoe.sweep.outcome import Outcome, read_outcome, write_outcome
from limoe.sweep.slots import gpu_lease
from limoe.sweep.work import Published, Work

OK = Outcome("ok", step=12, evidence="fine", steps_planned=12, loss=2.0)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    return sweep_project(tmp_path_factory.mktemp("refuse") / "project", tiny_data)


@pytest.fixture(autouse=True)
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cores and no GPU, whatever this machine has."""
    monkeypatch.setattr("limoe.sweep.slots.usable_cores", lambda: 2)
    monkeypatch.setattr(trials, "visible_gpus", list)


@pytest.mark.parametrize(
    "changes,sentence",
    [
        ({"budget": "stres"}, "budget 'stres': no file overlays/stres.yaml; did you mean stress?"),
        ({"space": "none.yaml"}, "none.yaml: no such file"),
        ({"space": "bad.yaml"}, "bad.yaml: train.lrr: .* did you mean train.lr?"),
        ({"contestant": "sparse"}, "contestant = 'sparse' is not allowed: limoe, dense, clip are"),
        ({"sampler": "sobl"}, "sampler 'sobl' is not allowed"),
        ({"pruner": "medium"}, "pruner 'medium' is not allowed"),
        ({"trials": 0}, "trials = 0 is not allowed"),
        ({"objectives": "loss,time"}, "objectives = loss,time is not allowed"),
        ({"name": "../up"}, "the sweep's name '../up' is not allowed"),
        ({"concurrency": 3}, "3 trials at a time of 1 threads each need 3 cores"),
        ({"concurrency": 0}, "concurrency = 0 is not allowed"),
        ({"runner": "ray"}, "runner = 'ray' is not allowed: local .* or dask"),
        ({"address": "tcp://one:8786"}, "needs runner = dask"),
        ({"runner": "dask"}, "needs a Prefect server .*: run `make prefect`"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_is_refused_with_a_sentence(root: Path, changes: dict[str, Any], sentence: str) -> None:
    (root / "overlays").mkdir(exist_ok=True)
    (root / "overlays" / "stress.yaml").write_text("train: {steps: 7}")
    (root / "bad.yaml").write_text("train.lrr: {low: 1.0e-3, high: 1.0e-2}")
    with pytest.raises(UserError, match=sentence):
        Request(**({"name": "x", "params": str(root / "params.yaml")} | changes)).plan().open()
    assert not (root / "runs").exists()


def test_a_refusal_ends_the_command_with_2_before_any_server_starts(root: Path) -> None:
    command = [sys.executable, "-m", "flows.sweep", "x", "--params", str(root / "params.yaml"), "--seeds", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: seeds = 0 is not allowed: it must be at least 1"
    assert "server" not in done.stdout + done.stderr


def test_a_budget_is_merged_into_the_parameters(root: Path) -> None:
    (root / "overlays").mkdir(exist_ok=True)
    (root / "overlays" / "stress.yaml").write_text("train: {steps: 7}")
    file = root / "params.yaml"
    assert (with_budget(file, None).train.steps, with_budget(file, "stress").train.steps) == (12, 7)
    (root / "overlays" / "wide.yaml").write_text("train: {steps: 9, lr: 0.5}")
    both = with_budget(file, "stress,wide").train
    assert (both.steps, both.lr) == (9, 0.5)
    assert with_budget(file, "wide, stress").train.steps == 7
    with pytest.raises(UserError, match=r"params.yaml with stress.yaml: train.steps"):
        (root / "overlays" / "stress.yaml").write_text("train: {steps: 0}")
        with_budget(file, "stress")


def test_without_prepared_data_the_stage_to_run_is_named(root: Path, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text((root / "params.yaml").read_text())
    with pytest.raises(UserError, match="no prepared data to train on; run dvc repro prepare"):
        Request("x", params=str(tmp_path / "params.yaml")).plan()


def test_data_that_were_prepared_otherwise_are_refused_with_the_command_that_makes_them(root: Path) -> None:
    (root / "overlays").mkdir(exist_ok=True)
    (root / "overlays" / "small.yaml").write_text("prepare: {seed: 7, emoji: {languages: [en, de]}}")
    with pytest.raises(UserError) as caught:
        Request("x", budget="small", params=str(root / "params.yaml")).plan()
    told = str(caught.value)
    assert "data/prepared was prepared with other settings" in told
    command = shlex.split(told[told.index("limoe prepare") :])
    assert sorted(command[3::2]) == ['prepare.emoji.languages=["en", "de"]', "prepare.seed=7"]
    again = Params.load(root / "params.yaml", tuple(command[3::2]))  # what the command would prepare is what is asked for
    assert again.prepare == with_budget(root / "params.yaml", "small").prepare


def test_threads_are_not_counted_where_gpus_are_leased_or_workers_are_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "get_current_settings", lambda: SimpleNamespace(api=SimpleNamespace(url="http://127.0.0.1:9")))
    check_runner("dask", "tcp://one:8786", 99, 4)
    monkeypatch.setattr(trials, "visible_gpus", lambda: ["0", "1"])
    check_runner("local", None, 2, 8)


def work(number: int, seed: int = 0, phase: Any = "search") -> Work:
    spec: Any = SimpleNamespace()
    return Work(number, seed, Path(f"{number}-{seed}"), spec, phase)


def test_a_line_says_which_how_the_best_and_what_is_left() -> None:
    now = iter([0.0, 60.0, 180.0])
    before = [
        {"point": 0, "phase": "search", "kind": "ok", "loss": 2.5},
        {"point": 0, "phase": "search", "kind": "oom", "loss": None},
    ]
    progress = Progress(3, before, lambda: next(now))
    # 1 point of 2 trials before; now 3 trials of 2 points: 1.5 a point. Left: 1 point and 10 fresh seeds, at 1 minute each.
    line = progress.line(work(1), OK)
    assert line == "3 of about 15: point 1 seed 0: ok, loss 2.000; best 2.000; about 12.0 min left"
    diverged = Outcome("diverged", step=3, evidence="diverged at step 3", steps_planned=12)
    # 4 trials of 3 points; 10 left, at 90 s each.
    line = progress.line(work(2), diverged)
    assert line == "4 of about 14: point 2 seed 0: diverged (diverged at step 3); best 2.000; about 15.0 min left"


def test_a_line_of_a_planned_study_says_what_is_left() -> None:
    now = iter([0.0, 120.0])
    study: Any = SimpleNamespace(planned=9, ended=1, group_of=lambda work: f"group {work.number}")
    progress = PlannedProgress(study, lambda: next(now))
    study.ended = 3
    # 1 trial before, 2 in these 2 minutes: 6 left, at 1 minute each.
    assert progress.line(work(1, seed=4), OK) == "3 of 9: group 1 seed 4: ok, loss 2.000; about 6 min left"


def test_the_conclusion_has_only_figures_of_fresh_seeds() -> None:
    bad = Outcome("diverged", step=3, evidence="", steps_planned=12, loss=9.0)
    outcomes = {1000: OK, 1001: Outcome("ok", 12, "fine", 12, loss=4.0), 1002: bad}
    recipe = {"train.lr": 0.00123456, "model.moe.experts": 8, "model.moe.tau_text": None}
    told = conclusion([Published(recipe, outcomes)], "first", {})
    assert told.splitlines() == [
        "- robust best: train.lr = 0.001235, model.moe.experts = 8, model.moe.tau_text = null: loss 3.000 (standard deviation "
        "1.414), 2 of 3 fresh seeds ok",
        "- next: limoe sensitivity first",
    ]
    nothing = conclusion([], "first", {3: "space: k (4) must not exceed experts (2)", 5: "another"})
    assert nothing.startswith("- no recipe")
    assert "not run: 2 points whose values do not fit together; the first: space: k (4)" in nothing


class Listed:
    """A study of trials that are given; each is handed out until it has an outcome."""

    def __init__(self, works: list[Work]) -> None:
        self.waiting = list(works)
        self.log: list[str] = []

    @property
    def done(self) -> bool:
        return not self.waiting

    def next(self) -> Work | None:
        return self.waiting.pop(0) if self.waiting else None

    def watch(self, running: list[Work]) -> None:
        self.log.append(f"watch {len(running)}")

    def finish(self, work: Work, outcome: Outcome) -> None:
        self.log.append(f"finish {work.number} {outcome.kind}")

    def retry(self, work: Work) -> None:
        self.log.append(f"retry {work.number}")
        self.waiting.append(work)


class Immediate:
    """A task runner that does at once what it is given; `act(folder)` is the task."""

    def __init__(self, act: Callable[[Path], None]) -> None:
        self.act = act
        self.most = self.open = 0

    def __enter__(self) -> Immediate:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, task: Any, parameters: dict[str, Any]) -> Any:
        self.act(Path(parameters["folder"]))
        wrapped: Future[None] = Future()
        wrapped.set_result(None)

        def result(raise_on_failure: bool) -> None:
            raise ConnectionError("the task's own error")

        return _Result(wrapped, result)


class _Result:
    def __init__(self, wrapped_future: Future[None], result: Callable[[bool], None]) -> None:
        self.wrapped_future = wrapped_future
        self._result = result

    def result(self, raise_on_failure: bool) -> None:
        self._result(raise_on_failure)


def folders(tmp_path: Path, count: int) -> list[Work]:
    spec: Any = SimpleNamespace()
    return [Work(number, 0, tmp_path / str(number), spec) for number in range(count)]


def test_a_task_that_ends_without_an_outcome_is_handed_out_again(tmp_path: Path) -> None:
    seen: list[str] = []

    def act(folder: Path) -> None:
        seen.append(folder.name)
        if seen.count(folder.name) == 2 or folder.name == "1":
            write_outcome(folder, OK)

    study, ended = Listed(folders(tmp_path, 2)), []
    runner: Any = Immediate(act)
    run_all(study, runner, 1, tmp_path, 1, lambda work, outcome: ended.append((work.number, outcome.kind)), poll=0)
    assert seen == ["0", "1", "0"]
    assert [line for line in study.log if "watch" not in line] == ["retry 0", "finish 1 ok", "finish 0 ok"]
    assert ended == [(1, "ok"), (0, "ok")]


def test_a_task_that_never_leaves_an_outcome_ends_the_flow_with_its_error(tmp_path: Path) -> None:
    study = Listed(folders(tmp_path, 1))
    runner: Any = Immediate(lambda folder: None)
    with pytest.raises(ConnectionError, match="the task's own error"):
        run_all(study, runner, 1, tmp_path, 1, lambda *_: None, poll=0)
    assert study.log.count("retry 0") == 2


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Scripts that trials are instead of trainings, one a launch."""
    scripts: list[str] = []

    def launch(folder: Path, data: Path, threads: int, gpu: int | None) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", scripts.pop(0)], cwd=folder)

    monkeypatch.setattr(trials, "launch", launch)
    monkeypatch.setattr(trials, "conclude", lambda folder, code: Outcome("killed" if code < 0 else "error", 0, str(code), 12))
    return scripts


def test_a_process_that_is_killed_is_started_again_and_twice_is_killed(tmp_path: Path, process: list[str]) -> None:
    kill = "import os; os.kill(os.getpid(), 9)"
    trials._interrupted.clear()
    process[:] = [kill, "raise SystemExit(3)"]
    assert run_work(tmp_path, tmp_path, 1).kind == "error"
    process[:] = [kill, kill, "never"]
    assert run_work(tmp_path, tmp_path, 1).kind == "killed"
    assert process == ["never"]


def test_a_trial_that_starts_while_the_flow_is_interrupted_ends_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def launch(folder: Path, data: Path, threads: int, gpu: int | None) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(20)"]))
        trials.end_processes()  # in another thread, before this one has told of its process
        return started[0]

    monkeypatch.setattr(trials, "launch", launch)
    trials._interrupted.clear()
    try:
        with pytest.raises(Interrupted):
            run_work(tmp_path, tmp_path, 1)
    finally:
        trials._interrupted.clear()
    assert started[0].returncode == -signal.SIGTERM


def test_a_trial_that_waits_for_a_gpu_notices_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(trials, "GPU_LOCKS", tmp_path / "locks")
    monkeypatch.setattr(trials, "launch", lambda *_: pytest.fail("it was started without a GPU"))
    trials._interrupted.clear()
    try:
        with gpu_lease(tmp_path / "locks"), ThreadPoolExecutor(1) as pool:  # another sweep has the only one
            waiting = pool.submit(run_work, tmp_path, tmp_path, 1)
            trials.end_processes()
            with pytest.raises(Interrupted):
                waiting.result(20)
    finally:
        trials._interrupted.clear()


def test_an_interrupted_flow_ends_its_trials_and_says_nothing_of_them(tmp_path: Path, process: list[str]) -> None:
    process[:] = ["import time; open('begun', 'w').close(); time.sleep(600)"]

    class Stop(Immediate):
        def submit(self, task: Any, parameters: dict[str, Any]) -> Any:
            pool = ThreadPoolExecutor(1)
            self.future = pool.submit(run_work, tmp_path, tmp_path, 1)
            pool.shutdown(wait=False)
            wait_for("the trial", lambda: (tmp_path / "begun").exists())
            raise KeyboardInterrupt

    runner: Any = Stop(lambda folder: None)
    with pytest.raises(KeyboardInterrupt):
        run_all(Listed(folders(tmp_path, 1)), runner, 1, tmp_path, 1, lambda *_: None, poll=0)
    with pytest.raises(Interrupted):
        runner.future.result(10)
    assert read_outcome(tmp_path) is None
