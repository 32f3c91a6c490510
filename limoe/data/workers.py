"""Pieces of work on the cores of this machine or on a Dask cluster: the same function of the same tasks, wherever it runs.

A task is small, and its `str` names it. The function goes to other processes by its name, as does what it is a method of; done
twice, it must come to the same. Nothing is lost with a process that dies: what was in its hands is done again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children
from typing import Any, Protocol, Self

from limoe.config import MachineParams
from limoe.cores import usable_cores
from limoe.data.interpreters import interpreters
from limoe.data.tasks import Result, Task, done, gather, killed
from limoe.errors import UserError

AHEAD = 2  # tasks handed out for each process, so that none waits for the next one
PATIENCE_SECONDS = 30  # for the answer of a Dask scheduler


class Workers(Protocol):
    """Whoever does tasks."""

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """function(task) of each task, in the order in which they are done; `tasks` is read as far as there are hands.

        What the function raises ends it, with the task's name before the message: UserError as one, what is the machine's fault
        as Reported, all else as TaskFailed. Reported, too, if a task's process is killed, and the next one that tries it as well.
        """


class Here:
    """This process."""

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """One after the other."""
        for task in tasks:
            yield done(function, task)


class Elsewhere(ABC):
    """Other processes, of whatever kind."""

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """See Workers.run.

        A process that dies does not say which of the tasks in its hands it died of. So each is done once more with nothing
        beside it: whichever kills that process, too, is the culprit, and what only lacked memory beside others has it then.
        """
        coming, lost = iter(tasks), list[Task]()
        while True:
            yield from gather(self._executor, function, coming, self._width, lost)
            if not lost:
                return
            while lost:
                self._renew(alone=True)
                again = list[Task]()
                yield from gather(self._executor, function, iter([lost.pop(0)]), lambda: 1, again)
                if again:
                    self._renew()
                    raise killed(again[0])
            self._renew()

    _executor: Executor

    @abstractmethod
    def _width(self) -> int:
        """Tasks to hand out at a time."""

    @abstractmethod
    def _renew(self, alone: bool = False) -> None:
        """Make the executor whole. alone: for a task that has no other one beside it."""


class Processes(Elsewhere):
    """So many processes of this machine. A context manager: they end with its body, at once if that raises."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._others = set(active_children())
        self._executor: ProcessPoolExecutor = interpreters(count)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            for process in set(active_children()) - self._others:
                process.terminate()
        self._executor.shutdown(cancel_futures=True)

    def _width(self) -> int:
        return AHEAD * self._count

    def _renew(self, alone: bool = False) -> None:
        self._executor.shutdown()
        self._executor = interpreters(1 if alone else self._count)


class OnDask(Elsewhere):
    """The workers of a Dask cluster, which may come and go."""

    def __init__(self, client: Any) -> None:
        """client: a distributed.Client."""
        self._client = client
        self._executor = client.get_executor(pure=False)

    def _width(self) -> int:
        threads: int = sum(self._client.nthreads().values())
        return AHEAD * max(1, threads)

    def _renew(self, alone: bool = False) -> None:
        """Nothing: the scheduler gives tasks to the workers that are left, several times before it calls one lost."""


@contextmanager
def open_workers(machine: MachineParams) -> Iterator[Workers]:
    """Those that `machine.dask` or, without a cluster, `machine.prepare_workers` names, for the body."""
    if machine.dask is not None:
        with _client(machine.dask) as client:
            yield OnDask(client)
        return
    count = usable_cores() if machine.prepare_workers == "auto" else machine.prepare_workers
    if count == 1:
        yield Here()
        return
    with Processes(count) as workers:
        yield workers


@contextmanager
def _client(address: str) -> Iterator[Any]:
    """UserError if no scheduler answers there, or one without workers."""
    from distributed import Client

    try:
        client: Any = Client(address, timeout=PATIENCE_SECONDS, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise UserError(
            f"machine.dask: no Dask scheduler answers at {address} ({error}); start one with `dask scheduler`"
        ) from None
    with client:
        if not client.nthreads():
            raise UserError(f"machine.dask: the scheduler at {address} has no workers; start some: dask worker {address}")
        yield client
