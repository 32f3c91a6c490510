"""A training in several processes of this machine: torchrun's agent starts them and ends them all when one has failed.

Each of them runs `python -m limoe.rank`, which does the stage's work. What went wrong they write down, each in a file, and this
process alone says it. A signal goes on to all of them: they end their step, save, and end.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from limoe.config import Contestant, Params
from limoe.errors import Reported
from limoe.files import read_json, write_json
from limoe.interrupt import AGAIN, Interrupted
from limoe.paths import Paths

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

ORDER, ERROR = "order.json", "error-{rank}.json"  # in a folder of this launch: what to do; what went wrong on a rank
HANGING_SECONDS = 10  # the agent waits for 30
PATIENCE_SECONDS = 600  # for a step to end and be saved after a signal; torch without its pull request 172596 has 30


def launch(params: Params, paths: Paths, contestant: Contestant) -> None:
    """Run `limoe.stages.train.work` in `machine.processes` processes, to its end.

    Reported, with the sentence of the rank that failed first; Interrupted on a signal.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(PATIENCE_SECONDS))
    order = {"params": params.model_dump(mode="json"), "root": str(paths.root), "contestant": contestant}
    with TemporaryDirectory(prefix="limoe-") as name:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=params.machine.processes,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=name),
        )
        write_json(Path(name) / ORDER, order)
        try:
            with _quiet():
                elastic_launch(config, sys.executable)("-m", "limoe.rank", name)
        except SignalException as told:
            raise Interrupted(told.sigval) from None
        except ChildFailedError as error:
            raise failure(error.failures, params.machine.processes, Path(name)) from None


def failure(failures: Mapping[int, ProcessFailure], processes: int, folder: Path) -> Reported:
    """What to say of the ranks that ended badly, by their numbers.

    The agent ends those that are left by SIGTERM and, where they hang, by SIGKILL much later: that is no cause. A kill comes
    before what it made of the others, and the first word before later ones.
    """
    begun = min(failed.timestamp for failed in failures.values())
    early = {rank: failed for rank, failed in failures.items() if failed.timestamp < begun + HANGING_SECONDS}
    for rank, failed in early.items():
        if failed.exitcode < 0 and failed.exitcode != -signal.SIGTERM:
            name = signal.Signals(-failed.exitcode).name
            return Reported("machine", f"process {rank} of {processes} was ended by {name}, and so were the others: {AGAIN}")
    if words := [path for rank in early if (path := folder / ERROR.format(rank=rank)).exists()]:
        first = read_json(min(words, key=lambda path: path.stat().st_mtime_ns))
        told = Reported(first["kind"], first["sentence"])
        told.add_note(first["traceback"])
        return told
    rank, failed = next(iter(early.items()))
    return Reported("machine", f"process {rank} of {processes} ended with exit code {failed.exitcode}: {AGAIN}")


@contextmanager
def _quiet() -> Iterator[None]:
    """The agent logs at length what is said here in a sentence."""
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
