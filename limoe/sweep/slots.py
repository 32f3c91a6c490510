"""What trials may use: as many threads as this machine has cores, each GPU for one trial at a time, and so much memory."""

from __future__ import annotations

import fcntl
import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from limoe.cores import usable_cores
from limoe.errors import UserError

DEVICES = Path("/dev")
MEGABYTE = 1 << 20
POLL_SECONDS = 0.2  # between looks at GPUs that are all taken


def check_threads(concurrency: int, threads: int) -> None:
    """UserError if so many trials at a time, of so many threads each, do not fit this machine's cores (or either is below 1)."""
    if concurrency < 1 or threads < 1:
        raise UserError(f"concurrency ({concurrency}) and threads ({threads}) must be at least 1")
    cores = usable_cores()
    if concurrency * threads > cores:
        raise UserError(
            f"{concurrency} trials at a time of {threads} threads each need {concurrency * threads} cores, and {cores} are "
            f"usable here: lower concurrency to {max(1, cores // threads)} or train.threads to {max(1, cores // concurrency)}"
        )


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may be set to for one GPU each; it is not asked whether torch can use them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip() and name.strip() != "-1"]
    numbers = [path.name.removeprefix("nvidia") for path in DEVICES.glob("nvidia[0-9]*")]
    return sorted((number for number in numbers if number.isdigit()), key=int)


@contextmanager
def gpu_lease(root: Path, pause: Callable[[float], object] = time.sleep) -> Iterator[int | None]:
    """A GPU for the body alone, as its place in `visible_gpus()`, once one is free; None on a machine without.

    root: the folder of the locks, one for all who share the machine's GPUs. The system frees a GPU when its holder dies.
    pause: called with the seconds until the next look; what it raises ends the waiting.
    """
    gpus = visible_gpus()
    if not gpus:
        yield None
        return
    root.mkdir(parents=True, exist_ok=True)
    while True:
        for place, name in enumerate(gpus):
            with (root / f"gpu-{name}.lock").open("a", encoding="utf-8") as handle:
                if _taken(handle):
                    yield place
                    return
        pause(POLL_SECONDS)


@contextmanager
def limited_memory(memory_mb: int | None) -> Iterator[None]:
    """For the body, this process gets at most so many MB of address space beyond what it has by now; None: no bound.

    More than that raises what the allocator raises. For a CPU: CUDA reserves address space without end.
    """
    if memory_mb is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    mapped = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + memory_mb * MEGABYTE, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _taken(handle: TextIO) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
