"""A training in a process that dies where it is told to: the fault hooks of `python -m benchmarks.resilience`.

It is the command `limoe train limoe`. The stage knows nothing of faults: they stand in the place of functions that it calls.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from limoe import cli, files
from limoe.stages import train as stage
from limoe.train import checkpoint
from limoe.train.checkpoint import STATE, SUMS, TENSORS, Checkpoints

RENAME, PRUNING, DELETING, FULL = "before it has its name", "before older ones go", "while an older one goes", "a full disk"
PLACES = (TENSORS, STATE, SUMS, RENAME, PRUNING, DELETING)  # within a save; a file's name: while it is written
KEPT, LOG = "kept", "log.txt"  # in the project's folder: what the stage deletes when it is done, and what it said


@dataclass(frozen=True)
class Fault:
    """where: one of PLACES, where the process gets a SIGKILL, or FULL, where the tensors find no room on the disk. save: of which
    save of the process, from 1. share: of a file that gets written before."""

    where: str
    save: int
    share: float = 0.5


def train(root: Path, fault: Fault | None = None) -> None:
    """`limoe train limoe` in the project `root`; does not return. Its output is added to log.txt."""
    log = os.open(root / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _put(stage, "shutil", SimpleNamespace(rmtree=lambda folder: shutil.move(folder, root / KEPT)))
    if fault is not None:
        _install(fault)
    cli.app(["train", "limoe", "--params", str(root / "params.yaml")])


def rank_of(launcher: int, rank: int) -> int | None:
    """The process that has this rank among those that a `limoe train` has started; None if there is none (any more)."""
    try:
        children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
        return next((int(child) for child in children if f"\0RANK={rank}\0" in Path(f"/proc/{child}/environ").read_text()), None)
    except OSError:
        return None


def _install(fault: Fault) -> None:
    saves = 0
    write, write_bytes = Checkpoints._write, checkpoint.write_bytes

    def here(place: str) -> bool:
        return place == fault.where and saves == fault.save

    def counted(*arguments: Any) -> None:
        nonlocal saves
        saves += 1
        write(*arguments)

    def written(path: Path, content: bytes) -> None:
        if here(path.name):
            path.write_bytes(content[: int(fault.share * len(content))])
            _die()
        if path.name == TENSORS and here(FULL):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write_bytes(path, content)

    def removed(folder: Path) -> None:
        if here(DELETING):
            min(folder.iterdir()).unlink()
            _die()
        shutil.rmtree(folder)

    _put(Checkpoints, "_write", counted)
    _put(checkpoint, "write_bytes", written)
    _put(checkpoint, "shutil", SimpleNamespace(rmtree=removed))
    _put(files, "_replace_directory", _before(files._replace_directory, lambda: here(RENAME)))
    _put(Checkpoints, "_wanted", _before(Checkpoints._wanted, lambda: here(PRUNING)))


def _before(function: Callable[..., Any], here: Callable[[], bool]) -> Callable[..., Any]:
    def called(*arguments: Any) -> Any:
        if here():
            _die()
        return function(*arguments)

    return called


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _put(owner: object, name: str, value: object) -> None:
    setattr(owner, name, value)
