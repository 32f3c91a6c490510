"""`python -m benchmarks.contrastive`: what it measures, and that its measure of memory sees a matrix where there is one."""

from __future__ import annotations

from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from benchkit import checked, ratios

from benchmarks import contrastive
from benchmarks.contrastive import FUNCTIONS, MIB, Case, free, main, peak_mib

CPU = torch.device("cpu")


class Here:
    """Stands for a pool of one process that takes seconds to start: knows the answers, or dies."""

    dies = False

    def __init__(self, processes: int, mp_context: Any) -> None:
        assert processes == 1

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def submit(self, function: Any, case: Case, device: str, threads: int) -> Future[float]:
        assert (function, device, threads) == (peak_mib, "cpu", 1)
        future: Future[float] = Future()
        if self.dies:
            future.set_exception(BrokenProcessPool("killed"))
        else:
            future.set_result({"plain": 100.0, "chunked": 5.0}[case.way])
        return future


def quick(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "contrastive.json"
    main(["--quick", "--threads", "1", "--device", "cpu", "--json", str(path)])
    return checked(path)


@pytest.mark.parametrize("loss", FUNCTIONS)
def test_both_ways_compute_the_same_and_gradients_are_freed(loss: str) -> None:
    grads = []
    for way in ("plain", "chunked"):
        case = Case(loss, way, 12, 4, 5)
        learned = case.learned(CPU)
        case.run(learned)
        grads.append([x.grad for x in learned])
        free(learned)
        assert all(x.grad is None for x in learned)
    for plain, chunked in zip(*grads, strict=True):
        torch.testing.assert_close(chunked, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read from Linux's /proc")
@pytest.mark.parametrize("loss", FUNCTIONS)
def test_the_measure_sees_the_matrices_of_the_plain_loss(loss: str) -> None:
    pairs = 2048
    with ProcessPoolExecutor(
        1, mp_context=get_context("spawn"), max_tasks_per_child=1
    ) as pool:  # new ones: no heap to fill first
        plain, chunked = pool.map(peak_mib, [Case(loss, way, pairs, 8, 64) for way in ("plain", "chunked")], ["cpu"] * 2, [1] * 2)
    assert plain > 2 * pairs**2 * 4 / MIB  # two in float32 at the least
    assert chunked < plain / 4


def test_each_loss_has_its_memory_and_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrastive, "ProcessPoolExecutor", Here)
    report = quick(tmp_path)
    assert {row["case"].split(":")[0] for row in report["rows"]} == {
        f"{what}, {loss}" for what in ("peak memory", "time") for loss in FUNCTIONS
    }
    assert [row["bar"] for row in report["rows"] if row["name"] == "chunked"] == [0.1, 1.5] * 2
    assert ratios(report, "peak memory, sigmoid")["chunked", "plain"] == pytest.approx(0.05)


def test_a_process_that_dies_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrastive, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(Here, "dies", True)
    report = quick(tmp_path)
    assert all("BrokenProcessPool" in reason for reason in report["skipped"].values())
    assert {row["unit"] for row in report["rows"]} == {"s"}
