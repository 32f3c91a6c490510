"""Throughput by hand arithmetic, and a clock that is read where the device has been waited for and counts nothing but steps."""

from __future__ import annotations

import doctest
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from healthkit import World, training

from limoe.train import throughput as module
from limoe.train.energy import energy_counter
from limoe.train.outcome import throughput, timing, timing_row
from limoe.train.throughput import Pace, Throughput, gpu_ceiling, matmul_ceiling

EVERY = {"every": 4, "minutes": None, "keep": 2}
NINE = {"steps": 9, "warmup": 2, "log_every": 3, "checkpoints": EVERY}  # rows at 3, 6 and 9, checkpoints at 4, 8 and 9
CPU, GPU = torch.device("cpu"), torch.device("cuda")


class Clock:
    """Stands for the module `time`: moved by hand, or by `tick` at each reading."""

    def __init__(self, tick: float = 0.0) -> None:
        self.now, self.tick = 0.0, tick

    def perf_counter(self) -> float:
        self.now += self.tick
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_mfu_is_three_forward_passes_over_the_ceiling() -> None:
    found = Throughput.of(0.25, pairs=512, tokens=205.0, forward_flops=35e9, ceiling=800e12)
    assert found.pairs_per_s == 2048.0
    assert found.tokens_per_s == 2048 * 205
    assert found.tflops == pytest.approx(3 * 35e9 * 2048 / 1e12)
    assert found.ceiling_tflops == 800.0
    assert found.mfu == pytest.approx(3 * 35e9 * 2048 / 800e12, abs=5e-5)


def test_without_a_ceiling_there_is_no_mfu() -> None:
    found = Throughput.of(2.0, pairs=10, tokens=3.0, forward_flops=1e9, ceiling=None)
    assert (found.pairs_per_s, found.tokens_per_s, found.tflops) == (5.0, 15.0, 0.015)
    assert (found.ceiling_tflops, found.mfu) == (None, None)
    assert str(found) == "5 pairs/s, 15 tokens/s"


def test_the_examples_are_true() -> None:
    results = doctest.testmod(module)
    assert (results.attempted, results.failed) == (2, 0)


def test_an_interval_is_a_median_over_its_steps_and_a_pause_counts_for_nothing(clock: Clock) -> None:
    pace = Pace(CPU)
    pace.start(0)
    for steps, seconds in ((10, 5.0), (20, 10.0), (25, 1.0)):  # 0.5, 1.0 and 0.2 seconds a step
        clock.now += seconds
        pace.lap(steps)
    clock.now += 100.0
    pace.lap(25)  # no step in between
    clock.now += 100.0
    pace.start(25)
    clock.now += 3.0
    pace.lap(26)
    assert pace.seconds == 19.0
    assert pace.step_seconds == 0.75  # of 0.5, 1.0, 0.2 and 3.0


def test_a_pace_goes_on_where_its_state_was_taken(clock: Clock) -> None:
    pace, again = Pace(CPU), Pace(CPU)
    pace.start(0)
    clock.now += 6.0
    pace.lap(3)
    again.load_state_dict(pace.state_dict())
    again.start(3)
    clock.now += 4.0
    again.lap(4)
    assert (again.seconds, again.step_seconds) == (10.0, 3.0)


def test_the_clock_is_read_after_the_device_was_waited_for(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def synchronize(device: torch.device) -> None:
        clock.now += 7.0

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    pace = Pace(GPU)
    pace.start(0)
    clock.now += 1.0
    pace.lap(2)
    assert pace.seconds == 8.0


def test_joules_are_those_of_the_steps_and_go_on_after_an_interruption(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter([100.0, 130.0, 130.0, 500.0, 520.0, 520.0])  # what is drawn between two intervals counts for nothing
    monkeypatch.setattr("limoe.train.throughput.energy_counter", lambda device: lambda: next(drawn))
    pace, again = Pace(CPU), Pace(CPU)
    pace.start(0)
    pace.lap(2)
    again.load_state_dict(pace.state_dict())
    again.start(2)
    again.lap(4)
    assert (pace.joules, again.joules) == (30.0, 50.0)


def test_nvml_counts_the_card_that_trains_in_millijoules(monkeypatch: pytest.MonkeyPatch) -> None:
    class NVMLError(Exception):
        pass

    def read(handle: str) -> int:
        assert handle == "handle of GPU-abc"
        return 2500

    nvml = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: f"handle of {uuid}",
        nvmlDeviceGetTotalEnergyConsumption=read,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="abc"))
    counter = energy_counter(GPU)
    assert counter is not None
    assert counter() == 2.5

    def old(handle: str) -> int:
        raise NVMLError

    nvml.nvmlDeviceGetTotalEnergyConsumption = old
    assert energy_counter(GPU) is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert energy_counter(GPU) is None
    assert energy_counter(CPU) is None


def test_a_training_counts_its_steps_and_not_its_checkpoints(tmp_path: Path, clock: Clock, monkeypatch) -> None:
    class Slow(World):
        def __next__(self):
            clock.now += 2.0
            return super().__next__()

    run = training(tmp_path, loader=Slow(), **NINE)
    save = run.saver.save

    def slowly(*arguments):
        clock.now += 100.0
        save(*arguments)

    monkeypatch.setattr(run.saver, "save", slowly)
    run.run(5)
    assert run.pace.seconds == 10.0
    clock.now += 100.0  # validation, say
    run.run()
    assert run.pace.seconds == 18.0
    assert run.pace.step_seconds == 2.0
    again = training(tmp_path, **NINE)
    assert (again.pace.seconds, again.pace.step_seconds) == (18.0, 2.0)


def test_the_ceiling_is_the_best_rate_of_any_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "time", Clock(tick=0.1))
    monkeypatch.setattr(module, "SIDES", {"cpu": (8, 16)})
    monkeypatch.setattr(module, "IN_A_ROW", {"cpu": 3})
    assert matmul_ceiling(CPU, torch.float32) == pytest.approx(3 * 2 * 16**3 / 0.1)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_measured_ceiling_is_a_rate_and_draws_nothing(precision: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SIDES", {"cpu": (64,)})
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.02)
    before = torch.get_rng_state()
    assert 1e6 < matmul_ceiling(CPU, precision) < 1e14
    assert torch.equal(torch.get_rng_state(), before)


def test_a_processor_is_not_measured() -> None:
    assert gpu_ceiling(CPU, torch.float32) is None


def test_what_is_timed_is_told_to_files_and_trackers(tmp_path: Path) -> None:
    run = training(tmp_path, **NINE)
    run.run()
    costs = {"mean_caption_tokens": 3.5, "flops_per_pair_forward": 1e6}
    tower = run.task.model.tower
    speed = throughput(run, tower, costs, ceiling=1e12)
    assert speed.pairs_per_s == pytest.approx(16 / run.pace.step_seconds, rel=1e-3)
    assert speed.tokens_per_s == pytest.approx(speed.pairs_per_s * (tower.image_tokens + 3.5), rel=1e-3)
    figures = timing(run, speed)
    assert (figures["device"], figures["peak_gpu_mb"], figures["ceiling_tflops"]) == ("cpu", None, 1.0)
    row = timing_row(run, figures)
    last = run.metrics.rows()[-1]
    assert (row["step"], row["time"]) == (last["step"], last["time"]) == (9, last["time"])
    assert row["timing/pairs_per_s"] == speed.pairs_per_s
    assert "timing/device" not in row
    assert "timing/peak_gpu_mb" not in row
