"""A trial: one training as a subprocess in its own directory, which holds all that is known of it.

trial.json (the spec), metrics.jsonl, reports.jsonl, log.txt, routing.parquet, and at the end outcome.json. Until then there are
checkpoints: a trial that was killed goes on from the last one and ends as an undisturbed one would, bit by bit. `limoe trial`
never fails because the training does; how it ended is its result (limoe/sweep/outcome.py).

Importing this module is cheap: torch comes with `run_trial`.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import traceback
from pathlib import Path

from limoe.errors import UserError
from limoe.files import exclusive_lock
from limoe.interrupt import EXIT_CODES
from limoe.sweep.outcome import FILE as OUTCOME
from limoe.sweep.outcome import KINDS, Kind, Outcome, read_outcome, write_outcome
from limoe.sweep.parent import PARENT, end_with_parent
from limoe.sweep.reports import read_reports, whole_rows
from limoe.sweep.slots import visible_gpus
from limoe.sweep.spec import TrialSpec, create, read_spec

__all__ = [
    "KINDS",
    "Outcome",
    "TrialSpec",
    "conclude",
    "create",
    "discard_state",
    "launch",
    "read_outcome",
    "read_reports",
    "read_spec",
    "run_trial",
    "write_outcome",
]
LOCK, LOG = "lock", "log.txt"
START = "--- trial started\n"  # in the log, at each launch
STATE = ("checkpoints", "routing.jsonl")  # what only going on needs
TAIL_BYTES = 8000  # of the log, behind a trial that left no outcome
NO_MEMORY = re.compile(
    r"can't allocate memory|cannot allocate memory|not enough memory|out of memory|bad_alloc|MemoryError|OutOfMemoryError"
    r"|can't start new thread|Thread creation failed",
    re.IGNORECASE,
)


def run_trial(folder: Path, data: Path, wait: bool = False, memory_mb: int | None = None) -> Outcome:
    """Train what `folder`'s spec says on the prepared set `data`, going on from what is there; writes and returns the outcome.

    A trial that has ended is not run again, unless it was killed. wait: for another process that is at work here; else UserError
    names it. memory_mb: see `limoe.sweep.training`.
    """
    end_with_parent()
    spec = read_spec(folder)
    with exclusive_lock(folder / LOCK, f"trial {folder.name}", wait):
        outcome = read_outcome(folder)
        if outcome is None or outcome.kind == "killed":
            (folder / OUTCOME).unlink(missing_ok=True)
            outcome = _attempt(folder, spec, data, memory_mb)
            write_outcome(folder, outcome)
        discard_state(folder)
        return outcome


def _attempt(folder: Path, spec: TrialSpec, data: Path, memory_mb: int | None) -> Outcome:
    from limoe.sweep.training import Reached, train_trial

    reached = Reached()
    kind: Kind = "error"
    try:
        return train_trial(folder, spec, data, reached, memory_mb)
    except UserError as error:
        evidence = str(error)
    except Exception as error:
        text = " ".join(str(error).split())[:500]
        if _is_memory(error):
            kind, evidence = "oom", f"not enough memory after {reached.step} steps: {type(error).__name__}: {text}"
        else:
            traceback.print_exc()
            evidence = f"{type(error).__name__}: {text}; the traceback is in {LOG}"
    return Outcome(kind=kind, step=reached.step, evidence=evidence, steps_planned=spec.steps, seconds=reached.seconds)


def _is_memory(error: BaseException) -> bool:
    """torch.OutOfMemoryError says so in its text."""
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or (isinstance(error, RuntimeError) and NO_MEMORY.search(f"{type(error).__name__} {error}") is not None)
    )


def discard_state(folder: Path) -> None:
    """Delete what only going on needs: for a trial that will not be run again."""
    shutil.rmtree(folder / STATE[0], ignore_errors=True)
    (folder / STATE[1]).unlink(missing_ok=True)


def launch(
    folder: Path, data: Path, threads: int, gpu: int | None = None, memory_mb: int | None = None
) -> subprocess.Popen[bytes]:
    """Start `limoe trial` on `folder` in a session of its own, with its log in log.txt; UserError if it wants more threads.

    It ends when the thread that calls this does, however that ends.

    gpu: a place in `visible_gpus()`, the only GPU that the trial will see; None: it sees none. If a process that was orphaned is
    still at work there, this one waits, and then has the same outcome.
    """
    spec = read_spec(folder)
    if spec.threads > threads:
        raise UserError(f"{folder}: train.threads is {spec.threads}, and a trial may have {threads} here")
    command = [sys.executable, "-m", "limoe.cli", "trial", str(folder), "--data", str(data), "--wait"]
    command += [] if memory_mb is None else ["--memory-mb", str(memory_mb)]
    visible = "" if gpu is None else visible_gpus()[gpu]
    alone = {"OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": visible, "PYTHONUNBUFFERED": "1"}
    alone[PARENT] = str(os.getpid())
    known = read_outcome(folder)
    if known is not None and known.kind == "killed":
        (folder / OUTCOME).unlink()
    with (folder / LOG).open("ab") as log:
        log.write(START.encode())
        log.flush()
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | alone, start_new_session=True
        )


def conclude(folder: Path, returncode: int) -> Outcome:
    """How the trial that was launched in `folder` and has ended with `returncode` (as Popen has it) ended; written down if it
    could not do that itself. UserError if another process is at work there."""
    spec = read_spec(folder)
    with exclusive_lock(folder / LOCK, f"trial {folder.name}"):
        outcome = read_outcome(folder)
        if outcome is None:
            rows = whole_rows(folder / "metrics.jsonl")
            step = int(rows[-1]["step"]) if rows else 0
            kind, evidence = _cause(returncode, _tail(folder / LOG))
            outcome = Outcome(kind=kind, step=step, evidence=evidence, steps_planned=spec.steps)
            write_outcome(folder, outcome)
        if outcome.kind != "killed":
            discard_state(folder)
        return outcome


def _cause(returncode: int, log: str) -> tuple[Kind, str]:
    """(kind, evidence) of a process that left no outcome."""
    last = next((line for line in reversed(log.splitlines()) if line.strip()), "nothing")
    if found := NO_MEMORY.search(log):
        line = next(line for line in log.splitlines() if found[0] in line)
        return "oom", f"not enough memory: {line.strip()[:500]}"
    if returncode < 0:
        return "killed", f"killed by {_signal(-returncode)}"
    if returncode in EXIT_CODES:
        return "killed", f"interrupted by {_signal(returncode - 128)}"
    return "error", f"ended with code {returncode} and without an outcome; its log ends with: {last.strip()[:500]}"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _tail(path: Path) -> str:
    """What the last launch wrote, or the end of it."""
    if not path.exists():
        return ""
    with path.open("rb") as handle:
        handle.seek(max(0, path.stat().st_size - TAIL_BYTES))
        return handle.read().decode("utf-8", "replace").rpartition(START)[2]
