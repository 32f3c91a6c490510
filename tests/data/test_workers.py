"""Tasks on this process, on others and on a Dask cluster: all are done, failures name theirs, and what dies is made up for."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from multiprocessing import active_children
from pathlib import Path

import pytest
from preparekit import cluster, params_with
from workkit import Deadly, double, imported, refuse, stumble, whoami

from limoe.cores import usable_cores
from limoe.data.workers import Here, Processes, TaskFailed, Workers, open_workers
from limoe.errors import Reported, UserError

elsewhere = pytest.mark.parametrize("workers", ["processes", "dask"], indirect=True)


@pytest.fixture(scope="module", params=["here", "processes", "dask"])
def workers(request: pytest.FixtureRequest) -> Iterator[Workers]:
    if request.param == "here":
        yield Here()
    elif request.param == "processes":
        with Processes(2) as found:
            yield found
    else:
        dask = request.getfixturevalue("dask")
        with open_workers(params_with(f"machine.dask={dask}").machine) as found:
            yield found


def test_every_task_is_done_once(workers: Workers) -> None:
    assert sorted(workers.run(double, range(50))) == [2 * number for number in range(50)]
    assert list(workers.run(double, [])) == []


@elsewhere
def test_two_processes_share_the_work(workers: Workers) -> None:
    seen: set[int] = set()
    while len(seen) < 2:  # until the second one has come up, too
        seen |= set(workers.run(whoami, range(20)))
    assert os.getpid() not in seen


def test_no_more_is_read_ahead_than_there_are_hands(workers: Workers) -> None:
    read = []

    def tasks() -> Iterator[int]:
        for number in range(100):
            read.append(number)
            yield number

    results = workers.run(double, tasks())
    next(results)
    assert len(read) <= 4
    results.close()  # type: ignore[attr-defined]


def test_a_failure_names_its_task(workers: Workers) -> None:
    with pytest.raises(UserError, match=r"^3: no threes$"):
        list(workers.run(refuse, range(5)))
    with pytest.raises(TaskFailed, match=r"^0: Odd: this and that$"):
        list(workers.run(stumble, [0]))
    for number, sentence in ((1, "1: FileNotFoundError: [Errno 2] gone"), (2, "2: broke off")):
        with pytest.raises(Reported) as caught:
            list(workers.run(stumble, [number]))
        assert (caught.value.kind, str(caught.value)) == ("machine", sentence)
    assert sorted(workers.run(double, [1, 2])) == [2, 4]  # and others are done as before


@elsewhere
def test_what_a_killed_process_had_in_its_hands_is_done_again(workers: Workers, tmp_path: Path) -> None:
    assert sorted(workers.run(Deadly(tmp_path, 4).do, range(9))) == [-number for number in reversed(range(9))]


@elsewhere
def test_what_kills_two_processes_is_named(workers: Workers, tmp_path: Path) -> None:
    with pytest.raises(Reported, match=r"^4: whatever process worked on it was killed, .* lower machine.prepare_workers") as c:
        list(workers.run(Deadly(tmp_path, 4, always=True).do, range(9)))
    assert c.value.kind == "machine"


@elsewhere
def test_a_worker_imports_no_torch(workers: Workers) -> None:
    assert set(workers.run(imported, ["torch", "limoe.model"])) == {False}


def test_an_interruption_ends_the_processes_at_once() -> None:
    others = set(active_children())
    with pytest.raises(KeyboardInterrupt), Processes(2) as workers:
        for _ in workers.run(time.sleep, [0, 600, 600, 600]):
            raise KeyboardInterrupt
    assert set(active_children()) == others


def test_how_many_there_are_is_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limoe.data.workers.usable_cores", lambda: 1)
    with open_workers(params_with().machine) as workers:
        assert isinstance(workers, Here)
    monkeypatch.setattr("limoe.data.workers.usable_cores", usable_cores)
    with open_workers(params_with("machine.prepare_workers=3").machine) as workers:
        assert isinstance(workers, Processes)
        assert workers._count == 3
    with pytest.raises(UserError, match=r"machine.prepare_workers: 0 is not allowed: auto, or a whole number"):
        params_with("machine.prepare_workers=0")


def test_a_scheduler_that_is_not_there_or_has_no_workers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limoe.data.workers.PATIENCE_SECONDS", 0.5)
    with (
        pytest.raises(UserError, match=r"machine.dask: no Dask scheduler answers at tcp://127.0.0.1:9 .*dask scheduler"),
        open_workers(params_with("machine.dask=tcp://127.0.0.1:9").machine),
    ):
        pass
    with (
        cluster(0) as address,
        pytest.raises(UserError, match=r"at tcp\S+ has no workers; start some: dask worker tcp"),
        open_workers(params_with(f"machine.dask={address}").machine),
    ):
        pass
