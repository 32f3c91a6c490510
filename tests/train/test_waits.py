"""Between two rows of the log the host never waits for a GPU, and for a row once.

On a machine without one every tensor but the captions' lengths counts as on a device (waitkit); with one, torch itself tells.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from modelkit import PARAMS
from stepkit import Same, pairs, task
from waitkit import Waits

from limoe.train.health import Stopped
from limoe.train.loop import Trainer

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))
CASES = {
    "top-k": {},
    "loss-free": {"router": "loss-free"},
    "uniform": {"router": "uniform"},
    "micro-batches": {"micro_batch": 4},
    "activations again": {"checkpoint_activations": True},
    "equal captions in chunks": {"positives": "equal-captions", "loss_chunk": 5},
    "sigmoid": {"loss": "sigmoid"},
    "dense": {"kind": "dense"},
    "clip": {"kind": "clip"},
    "adafactor": {"optimizer": "adafactor"},
    "muon and averages": {"optimizer": "muon", "ema": 0.9},
}


class Spoilt(Same):
    """Batches of float32 on the host; those with these numbers hold a NaN."""

    def __init__(self, numbers=()):
        self.number, self.numbers = 0, numbers

    def __next__(self):
        drawn = pairs(torch.float32)
        self.number += 1
        scale = float("nan") if self.number in self.numbers else 1.0
        return dataclasses.replace(drawn, images_BCHW=drawn.images_BCHW * scale)


def training(
    folder, loader=None, device="cpu", kind="limoe", router="top-k", kernel="slots", checkpoint_activations=False, **train
):
    """Six steps, of which the third and the sixth are logged, on a device that is not waited for."""
    one = task(kind, {"kernel": kernel, "router": router}, steps=6, warmup=1, log_every=3, **train)
    one.model.float().to(device).set_grad_checkpointing(checkpoint_activations)
    run = Trainer(one, loader or Spoilt(), one.train, folder, lambda _: None, lambda _: None).resume()
    run.reads_every_step = False
    return run


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_read_but_a_row_of_the_log(tmp_path, case):
    run = training(tmp_path, **CASES[case])
    run.run(until=1)
    with Waits() as waits:
        run.run(until=2)
    assert waits.found == []
    with Waits() as waits:
        run.run(until=3)
    assert waits.found == ["cpu"]
    assert [row["step"] for row in run.metrics.rows()] == [3]


@pytest.mark.parametrize("case", [{"router": "expert-choice"}, {"kernel": "loop"}])
def test_what_follows_the_decisions_waits_for_them(tmp_path, case):
    run = training(tmp_path, **case)
    with Waits() as waits:
        run.run(until=1)
    assert waits.found


@pytest.mark.parametrize("device", [CUDA])
@pytest.mark.parametrize("case", CASES)
def test_torch_sees_no_wait_either(tmp_path, device, case):
    run = training(tmp_path, device=device, **CASES[case])
    run.run(until=4)
    torch.cuda.set_sync_debug_mode("error")
    try:
        run.run(until=5)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_what_is_read_late_is_what_would_have_been_read_at_once(tmp_path):
    ends = []
    for late in (True, False):
        run = training(tmp_path / str(late), Spoilt({2, 3, 5}), router="loss-free")
        run.reads_every_step = not late
        run.run()
        rows = [{name: value for name, value in row.items() if name != "time"} for row in run.metrics.rows()]
        ends.append((rows, run.routing.rows(), run.bad_batches.rows(), run.model.state_dict()))
    assert ends[0][:3] == ends[1][:3]
    assert [row["step"] for row in ends[0][2]] == [2, 3, 5]
    for name, tensor in ends[0][3].items():
        assert torch.equal(tensor, ends[1][3][name]), name


def test_a_divergence_stops_the_training_at_the_next_row(tmp_path):
    run = training(tmp_path, Spoilt({1, 2, 3, 4, 5}), max_bad_steps=2)
    told = []
    run.on_alarm = told.append
    with pytest.raises(Stopped, match=r"training stopped at step 2: diverged: .* 2 steps in a row"):
        run.run()
    assert run.step == 3
    assert told == [run.guard.alarm]
    assert [row["step"] for row in run.bad_batches.rows()] == [1, 2, 3]


def test_a_checkpoint_knows_of_every_step_before_it(tmp_path):
    training(tmp_path, Spoilt({2, 4}), checkpoints=PARAMS.train.checkpoints.model_dump() | {"every": 5}).run(until=5)
    again = training(tmp_path)
    assert (again.step, again.guard.skipped) == (5, 2)
    assert [row["step"] for row in again.bad_batches.rows()] == [2, 4]
