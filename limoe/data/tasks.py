"""A task done in some process, and many handed to an executor: results as they come, failures with the name of their task."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from typing import TypeVar

from limoe.errors import Reported, UserError

Task = TypeVar("Task")
Result = TypeVar("Result")
KILLED = "KilledWorker"  # Dask's exception, which is not imported where there is no Dask


class TaskFailed(Exception):
    """What went wrong with a task that is nobody's fault but ours; the message names both."""


def gather(
    executor: Executor,
    function: Callable[[Task], Result],
    tasks: Iterator[Task],
    width: Callable[[], int],
    lost: list[Task],
) -> Iterator[Result]:
    """Results as they come, with at most `width()` tasks handed out. Once a process has died no further task is taken from
    `tasks`, and those that may have been in its hands are in `lost`."""
    running: dict[Future[Result], Task] = {}
    while True:
        most = width()
        while not lost and len(running) < most and (task := next(tasks, None)) is not None:
            try:
                running[executor.submit(done, function, task)] = task
            except BrokenExecutor:
                lost.append(task)
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            task = running.pop(future)
            error = future.exception()
            if isinstance(error, BrokenExecutor) or type(error).__name__ == KILLED:
                lost.append(task)
            else:
                yield future.result()


def done(function: Callable[[Task], Result], task: Task) -> Result:
    """function(task). What goes wrong is raised as one of three exceptions that travel between processes, which not all do."""
    try:
        return function(task)
    except UserError as error:
        raise UserError(f"{task}: {error}") from error
    except Reported as error:
        raise Reported(error.kind, f"{task}: {error}") from error
    except (OSError, MemoryError) as error:
        raise Reported("machine", f"{task}: {type(error).__name__}: {error}") from error
    except Exception as error:
        raise TaskFailed(f"{task}: {type(error).__name__}: {error}") from error


def killed(task: object) -> Reported:
    """The failure of a task whose process is killed whenever it is tried."""
    return Reported(
        "machine",
        f"{task}: whatever process worked on it was killed, perhaps for want of memory: lower machine.prepare_workers, or give "
        "Dask's workers more memory; what is finished is kept",
    )
