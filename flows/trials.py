"""Trials as Prefect tasks: how a sweep or an ablation is worked off, on this machine or on a Dask cluster.

What runs next is the study's affair (limoe.sweep); here is only where and when. A task starts a trial's process, waits for it and
says what became of it; the trial's directory, not the task's result, is what the study reads.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.settings import get_current_settings
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from limoe.errors import UserError
from limoe.interrupt import EXIT_CODES
from limoe.sweep.outcome import Outcome, read_outcome
from limoe.sweep.slots import check_threads, gpu_lease, visible_gpus
from limoe.sweep.trial import conclude, launch
from limoe.sweep.work import Work

RUNNERS = ("local", "dask")
POLL_SECONDS = 1.0  # between two looks at the reports of running trials
KILLS = 2  # of a trial's process, before they are its outcome: each time it goes on from its checkpoint
SILENCES = 3  # of a trial's task that ends without an outcome, as when a Dask worker dies, before its error is raised
GRACE_SECONDS = 10
GPU_LOCKS = Path(tempfile.gettempdir()) / f"limoe-gpus-{os.getuid()}"  # of this machine, whatever project asks

_interrupted = threading.Event()
_processes: set[subprocess.Popen[bytes]] = set()  # the trials that this process has started and waits for


class Study(Protocol):
    """What hands out trials: a Sweep or an Ablation."""

    @property
    def done(self) -> bool:
        """Whether nothing is left to run."""

    def next(self) -> Work | None:
        """A trial to start now; None if there is none until another has ended."""

    def watch(self, running: list[Work]) -> None:
        """Look at what running trials report, and ask hopeless ones to end."""

    def finish(self, work: Work, outcome: Outcome) -> None:
        """Take in what became of a trial."""

    def retry(self, work: Work) -> None:
        """Hand the trial out again: whoever ran it has gone without a word."""


class Interrupted(Exception):
    """The flow was interrupted; its trials have been ended and go on when it is started again."""


def run_work(folder: Path, data: Path, threads: int) -> Outcome:
    """Run the trial in `folder` to its end, on a GPU of its own where there are GPUs.

    A process that a signal has ended is started again and goes on from its checkpoint.
    """
    with gpu_lease(GPU_LOCKS, _pause) as gpu:
        for _ in range(KILLS):
            code = _run_process(folder, data, threads, gpu)
            if (code >= 0 and code not in EXIT_CODES) or read_outcome(folder) is not None:
                break
    return conclude(folder, code)


def _pause(seconds: float) -> None:
    if _interrupted.wait(seconds):
        raise Interrupted


def _run_process(folder: Path, data: Path, threads: int, gpu: int | None) -> int:
    if _interrupted.is_set():
        raise Interrupted
    process = launch(folder, data, threads, gpu)
    _processes.add(process)
    if _interrupted.is_set():  # since it was asked: `end_processes` may not have seen this one
        process.send_signal(signal.SIGTERM)
    try:
        code = process.wait()
    finally:
        _processes.discard(process)
    if _interrupted.is_set():
        raise Interrupted
    return code


def end_processes() -> None:
    """End the trials that run in this process, and start no other."""
    _interrupted.set()
    for process in list(_processes):
        process.send_signal(signal.SIGTERM)
    for process in list(_processes):
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


@task(name="trial", task_run_name="{label}", cache_policy=NO_CACHE)
def trial(label: str, folder: str, data: str, threads: int) -> str:  # noqa: ARG001  # the label is the task run's name
    """A trial as a task: what became of it."""
    outcome = run_work(Path(folder), Path(data), threads)
    get_run_logger().info("%s after %d of %d steps %s", outcome.kind, outcome.step, outcome.steps_planned, outcome.evidence)
    return outcome.kind


def check_runner(runner: str, address: str | None, concurrency: int, threads: int) -> None:
    """UserError unless trials can run there: known runner, a Prefect server for Dask's workers, no more threads than cores."""
    if concurrency < 1:
        raise UserError(f"concurrency = {concurrency} is not allowed: at least 1 trial must run at a time")
    if runner not in RUNNERS:
        raise UserError(f"runner = {runner!r} is not allowed: local (processes of this machine) or dask (prefect-dask)")
    if address and runner != "dask":
        raise UserError(f"address = {address!r} is a Dask scheduler's and needs runner = dask")
    if runner == "dask" and not get_current_settings().api.url:
        raise UserError(
            "runner = dask needs a Prefect server that its workers can reach: run `make prefect` in another terminal "
            "and export PREFECT_API_URL=http://127.0.0.1:4200/api (each worker would start a server of its own)"
        )
    if not address and not visible_gpus():
        check_threads(concurrency, threads)


def task_runner(runner: str, address: str | None, concurrency: int) -> TaskRunner[Any]:
    """Where tasks run: threads of this process, or a Dask cluster: the one at `address`, or one made here for the time."""
    if runner == "local":
        return ThreadPoolTaskRunner(max_workers=concurrency)
    from prefect_dask.task_runners import DaskTaskRunner

    if address:
        return DaskTaskRunner(address=address)
    # One thread: a worker runs one trial. No dashboard: its port may be taken, and Prefect's page shows the same.
    return DaskTaskRunner(cluster_kwargs={"n_workers": concurrency, "threads_per_worker": 1, "dashboard_address": None})


def run_all(
    study: Study,
    runner: TaskRunner[Any],
    concurrency: int,
    data: Path,
    threads: int,
    ended: Callable[[Work, Outcome], object],
    poll: float = POLL_SECONDS,
) -> None:
    """Run everything that the study hands out, `concurrency` at a time; `ended` is called when the study has taken in a trial.

    poll: seconds between two looks at what running trials report. Call it within a flow. Whatever ends it early ends the trials
    of this process too: nothing is lost, and the next call goes on.
    """
    _interrupted.clear()
    with runner:
        try:
            _work_off(study, runner, concurrency, data, threads, ended, poll)
        except BaseException:
            end_processes()
            raise


def _work_off(
    study: Study,
    runner: TaskRunner[Any],
    concurrency: int,
    data: Path,
    threads: int,
    ended: Callable[[Work, Outcome], object],
    poll: float,
) -> None:
    running: dict[PrefectFuture[Any], Work] = {}
    gone: queue.SimpleQueue[PrefectFuture[Any]] = queue.SimpleQueue()
    silent: Counter[Path] = Counter()
    while True:
        while len(running) < concurrency and (work := study.next()) is not None:
            label = f"trial {work.number} seed {work.seed}"
            parameters = {"label": label, "folder": str(work.folder), "data": str(data), "threads": threads}
            future = runner.submit(trial, parameters)
            running[future] = work
            future.wrapped_future.add_done_callback(lambda _, future=future: gone.put(future))
        if not running:
            return
        future = _first(gone, poll)
        study.watch(list(running.values()))
        if future is not None:
            work = running.pop(future)
            outcome = _outcome(future, work, silent)
            if outcome is None:
                study.retry(work)
            else:
                study.finish(work, outcome)
                if read_outcome(work.folder) is None:
                    print(f"trial {work.number} seed {work.seed}: {outcome.kind} ({outcome.evidence}); it runs once more")
                else:
                    ended(work, outcome)


def _first(gone: queue.SimpleQueue[PrefectFuture[Any]], seconds: float) -> PrefectFuture[Any] | None:
    try:
        return gone.get(timeout=seconds)
    except queue.Empty:
        return None


def _outcome(future: PrefectFuture[Any], work: Work, silent: Counter[Path]) -> Outcome | None:
    """What became of the trial; None if its task has left nothing. A task that does so again and again raises its error."""
    outcome = read_outcome(work.folder)
    if outcome is None:
        silent[work.folder] += 1
        if silent[work.folder] >= SILENCES:
            future.result(raise_on_failure=True)
            raise RuntimeError(f"the task of {work.folder} ended {SILENCES} times without an outcome")
    return outcome
