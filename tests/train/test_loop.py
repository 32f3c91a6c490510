"""The loop: a resumed training is the undisturbed one, bit by bit; the objective is what it says; bad steps are skipped."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import signal
import threading

import numpy as np
import pytest
import torch
from modelkit import PARAMS, VOCAB, batch, moe, tower

from limoe.errors import UserError
from limoe.interrupt import SIGNALS, Interrupted, at_once
from limoe.model.limoe import Limoe
from limoe.model.tokens import PairBatch
from limoe.train import checkpoint
from limoe.train.loop import MAX_LOG_SCALE, Trainer
from limoe.train.optim import optimizer_tensors
from limoe.train.outcome import final_metrics, timing, write_journals
from limoe.train.rollback import Rollbacks
from limoe.train.step import ContrastiveTask
from limoe.train.throughput import Throughput

EVERY = {"every": 4, "minutes": None, "keep": 2}
RECIPE = {"steps": 9, "batch": 8, "warmup": 2, "checkpoints": EVERY, "log_every": 3, "lr": 0.01, "max_bad_steps": 3}


class Batches:
    """Random batches named by their number; `broken` ones hold a NaN."""

    def __init__(self, broken: set[int] = frozenset()) -> None:
        self.number, self.broken = 0, broken

    def __next__(self) -> PairBatch:
        pairs = batch(seed=self.number)
        if self.number in self.broken:
            pairs = dataclasses.replace(pairs, images_BCHW=pairs.images_BCHW * float("nan"))
        self.number += 1
        return pairs

    def state_dict(self):
        return {"number": self.number}

    def load_state_dict(self, state):
        self.number = state["number"]


class Killed(Exception):
    pass


def trainer(folder, kind="limoe", loader=None, rows=None, router="top-k", priority="bpr", validate=None, **changes) -> Trainer:
    torch.manual_seed(0)
    params = moe(router=router, priority=priority) if kind == "limoe" else None
    model = Limoe(tower(), params, VOCAB)
    train = type(PARAMS.train).model_validate(PARAMS.train.model_dump() | RECIPE | changes)
    task = ContrastiveTask(model, params, train, precision=torch.float32)
    handed = [] if rows is None else rows
    return Trainer(task, loader or Batches(), train, folder, lambda row: None, handed.extend, validate=validate).resume()


def state(run: Trainer) -> dict[str, torch.Tensor]:
    means = {} if run.ema is None else {f"ema/{name}": tensor for name, tensor in run.ema.state_dict().items()}
    return {**run.model.state_dict(), **optimizer_tensors(run.optimizer, run.model), **means}


def without_times(run: Trainer) -> list[dict]:
    return [{name: value for name, value in row.items() if name != "time"} for row in run.metrics.rows()]


SCALES = {"router": 0.5, "experts": 2.0, "embeddings": 1.0}


def assert_same(one: Trainer, other: Trainer) -> None:
    """Weights, optimiser state, router state, position in the data, metrics and routing: bit by bit."""
    mine, theirs = state(one), state(other)
    assert mine.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(mine[name], tensor), name
    assert one.loader.state_dict() == other.loader.state_dict()
    assert without_times(one) == without_times(other)
    assert one.routing.rows() == other.routing.rows()


@pytest.mark.parametrize(
    "killed_after,changes",
    [
        (1, {}),
        (3, {}),
        (4, {}),
        (5, {}),
        (8, {}),
        (5, {"router": "loss-free"}),
        (5, {"router": "expert-choice"}),
        (5, {"optimizer": "adamw", "ema": 0.9, "lr_scale": SCALES, "schedule": "wsd", "cooldown": 3}),
        (5, {"optimizer": "adafactor", "ema": 0.9}),
        (5, {"optimizer": "muon", "ema": 0.9}),
    ],
)
def test_resumed_equals_undisturbed(tmp_path, killed_after, changes):
    whole = trainer(tmp_path / "whole", **changes)
    whole.run()

    class Mortal(Batches):
        def __next__(self):
            if self.number == killed_after:
                raise Killed
            return super().__next__()

    with pytest.raises(Killed):
        trainer(tmp_path / "torn", loader=Mortal(), **changes).run()
    rows = []
    torn = trainer(tmp_path / "torn", rows=rows, **changes)
    assert torn.step == killed_after // 4 * 4
    torn.run()
    assert_same(torn, whole)
    assert rows == torn.metrics.rows()  # the tracker gets every row, with the times at which they were made


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("during", [1, 5, 8, 9])
def test_a_signal_lets_the_step_end_saves_and_the_next_start_goes_on(tmp_path, python_handlers, number, during):
    whole = trainer(tmp_path / "whole")
    whole.run()

    class Signalled(Batches):
        def __next__(self):
            if self.number == during - 1:
                signal.raise_signal(number)
            return super().__next__()

    rows = []
    asked = trainer(tmp_path / "asked", loader=Signalled(), rows=rows)
    with pytest.raises(Interrupted, match=rf"{number.name}: step {during} of 9 is saved; run it again"):
        asked.run()
    assert asked.saver.checkpoints.latest().step == during
    assert [row["step"] for row in rows] == [step for step in (3, 6, 9) if step <= during]
    again = trainer(tmp_path / "asked")
    assert again.step == during
    again.run()
    assert_same(again, whole)


def test_a_signal_before_the_first_step_saves_nothing(tmp_path, python_handlers, monkeypatch):
    run = trainer(tmp_path)
    monkeypatch.setattr(run.model, "train", lambda: signal.raise_signal(signal.SIGTERM))
    with at_once(), pytest.raises(Interrupted):
        run.run()
    assert list((tmp_path / "checkpoints").glob("*")) == []


def test_a_checkpoint_is_due_by_steps_by_minutes_and_at_the_end(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("limoe.train.saver.time.monotonic", lambda: now[0])
    run = trainer(tmp_path, checkpoints=EVERY | {"minutes": 2.0})
    due = run.saver.due
    assert [step for step in range(1, 10) if due(step)] == [4, 8, 9]
    now[0] = 119.0
    assert not due(5)
    now[0] = 120.0
    assert due(5)
    run.saver.save(5)
    assert not due(6)
    run.saver.settle()
    assert not any(trainer(tmp_path / "without").saver.due(step) for step in (1, 2, 3))


def test_checkpoints_at_any_minute_change_no_result(tmp_path):
    whole = trainer(tmp_path / "whole")
    whole.run()
    often = trainer(tmp_path / "often", checkpoints=EVERY | {"minutes": 1e-9})
    often.run()
    assert_same(often, whole)


def test_rows_are_handed_out_once_a_checkpoint_covers_them(tmp_path, monkeypatch):
    go, rows, seen = threading.Event(), [], {}

    class Watched(Batches):
        def __next__(self):
            seen[self.number] = [row["step"] for row in rows]
            if self.number == 6:
                go.set()
                run.saver.checkpoints.wait()
            return super().__next__()

    run = trainer(tmp_path, loader=Watched(), rows=rows)
    monkeypatch.setattr(run.saver, "_sync", lambda: go.wait(10))
    run.run()
    assert seen[5] == seen[6] == [], "step 4's checkpoint is not written yet"
    assert seen[7] == [3], "row 6 is not covered by it"
    assert [row["step"] for row in rows] == [3, 6, 9]


@pytest.mark.parametrize("damaged,back_to", [([9], 8), ([8, 9], 0)])
def test_a_row_that_is_computed_again_has_its_first_time(tmp_path, monkeypatch, damaged, back_to):
    rows = []
    monkeypatch.setattr("limoe.train.saver.time.time", lambda: 1000.0)
    trainer(tmp_path, rows=rows).run()
    for step in damaged:  # so that it goes back behind rows that others know
        (tmp_path / "checkpoints" / f"step-00000000{step}" / "state.json").write_text("{}")
    with (tmp_path / "metrics.jsonl").open("a") as handle:
        handle.write('{"step": 10, "ti')  # of a process that was killed
    monkeypatch.setattr("limoe.train.saver.time.time", lambda: 2000.0)
    again = trainer(tmp_path, rows=rows)
    assert again.step == back_to
    again.run()
    assert rows[3:] == rows[:3]


def test_a_journal_that_lost_rows_is_told_of_and_left_as_it_is(tmp_path):
    """A checkpoint knows how long it was; filled up to that length, it would hold what is no row."""
    trainer(tmp_path).run()
    file = tmp_path / "metrics.jsonl"
    file.write_text(first := file.read_text().splitlines(keepends=True)[0])
    for _ in range(2):
        with pytest.raises(
            UserError, match=r"metrics\.jsonl: has \d+ bytes, and had \d+ when .* remove its folder to train anew"
        ):
            trainer(tmp_path)
        assert file.read_text() == first


def test_a_failed_save_ends_the_training_and_it_goes_on_from_the_one_before(tmp_path, monkeypatch):
    whole = trainer(tmp_path / "whole")
    whole.run()
    write = checkpoint.write_bytes

    def full(path, content):
        if "step-000000008" in str(path):
            raise OSError(28, "No space left on device", str(path))
        write(path, content)

    monkeypatch.setattr(checkpoint, "write_bytes", full)
    rows = []
    with pytest.raises(OSError, match="No space left on device"):
        trainer(tmp_path / "full", rows=rows).run()
    assert [row["step"] for row in rows] == [3]
    monkeypatch.undo()
    again = trainer(tmp_path / "full")
    assert again.step == 4
    again.run()
    assert_same(again, whole)


@pytest.mark.parametrize("router", ["top-k", "loss-free", "expert-choice"])
def test_no_random_generator_runs(tmp_path, router):
    run = trainer(tmp_path, router=router, priority="shuffled")
    before = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    run.run()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), str(np.random.get_state())) == before[1:]


STATES = {"loss-free": "bias_ME", "expert-choice": "threshold_ME"}


@pytest.mark.parametrize("router", STATES)
def test_a_routers_state_moves_at_every_step_that_is_taken(tmp_path, router):
    run = trainer(tmp_path, router=router, loader=Batches({0}), steps=2)
    before = {name: tensor.clone() for name, tensor in run.model.named_buffers() if name.endswith(STATES[router])}
    assert len(before) == 2  # sparse blocks
    run.train = run.train.model_copy(update={"steps": 1})
    run.run()
    assert run.guard.skipped == 1
    for name, tensor in before.items():
        assert torch.equal(run.model.get_buffer(name), tensor), name
    run.train = run.train.model_copy(update={"steps": 2})
    run.run()
    for name, tensor in before.items():
        assert not torch.equal(run.model.get_buffer(name), tensor), name


def test_rows_that_were_not_handed_over_are_when_it_goes_on(tmp_path):
    def refuses_the_last(rows):
        if rows[-1]["step"] == 9:
            raise Killed

    run = trainer(tmp_path)
    run.saver.on_rows = refuses_the_last
    with pytest.raises(Killed):
        run.run()
    rows = []
    again = trainer(tmp_path, rows=rows)
    assert again.step == 9  # nothing is left to train
    again.run()
    assert [row["step"] for row in rows] == [3, 6, 9]
    assert again.pace.seconds == pytest.approx(run.pace.seconds, abs=0.01)


LOSSES = {4: 2.0, 8: 1.0, 9: 1.5}  # by step: those that are measured


def validated(folder, losses=LOSSES, **arguments) -> Trainer:
    """A training whose validation loss is given; `run.measured` lists the steps that were measured."""

    def validate():
        run.measured.append(run.step)
        return {"loss": losses[run.step], "top1/val": run.step / 10}

    run = trainer(folder, validate=validate, export="best", **arguments)
    run.measured = []
    return run


def test_the_best_checkpoint_stays_and_its_weights_are_chosen(tmp_path):
    run = validated(tmp_path / "best", {4: 1.0, 8: 2.0, 9: 1.0}, checkpoints=EVERY | {"keep": 1}, ema=0.9)
    run.run()
    assert run.measured == [4, 8, 9]
    assert [path.name for path in sorted((tmp_path / "best" / "checkpoints").iterdir())] == ["step-000000004", "step-000000009"]
    assert (run.best.chosen, run.best.figures) == (4, {"loss": 1.0, "top1/val": 0.4})  # the first of equals
    short = trainer(tmp_path / "short", ema=0.9)
    short.run(until=4)
    run.choose_weights()
    for name, tensor in (short.model.state_dict() | short.ema.state_dict()).items():
        assert torch.equal((run.model.state_dict() | run.ema.state_dict())[name], tensor), name


def test_a_measured_step_has_a_row_and_nothing_else_changes(tmp_path):
    run, plain = validated(tmp_path / "best"), trainer(tmp_path / "plain")
    run.run()
    plain.run()
    rows = {row["step"]: row for row in without_times(run)}
    assert list(rows) == [3, 4, 6, 8, 9]
    assert [rows[step].get("validation/loss") for step in rows] == [None, 2.0, None, 1.0, 1.5]
    assert rows[8]["validation/top1/val"] == 0.8
    for name, tensor in state(plain).items():
        assert torch.equal(state(run)[name], tensor), name
    assert [rows[step]["contrastive"] for step in (3, 6, 9)] == [row["contrastive"] for row in plain.metrics.rows()]
    run.choose_weights()
    plain.choose_weights()
    assert not torch.equal(plain.model.patch.weight, run.model.patch.weight)
    assert torch.equal(plain.model.patch.weight, state(plain)["patch.weight"]), "the last weights are those that are there"


@pytest.mark.parametrize("killed_after", [3, 5, 8])
def test_keeping_the_best_survives_an_interruption(tmp_path, killed_after):
    whole = validated(tmp_path / "whole")
    whole.run()

    class Mortal(Batches):
        def __next__(self):
            if self.number == killed_after:
                raise Killed
            return super().__next__()

    with pytest.raises(Killed):
        validated(tmp_path / "torn", loader=Mortal(), checkpoints=EVERY | {"minutes": 1e-9}).run()
    torn = validated(tmp_path / "torn")
    torn.run()
    assert_same(torn, whole)
    assert torn.best.state_dict() == whole.best.state_dict() == {"step": 8, "figures": {"loss": 1.0, "top1/val": 0.8}}
    torn.choose_weights()


def test_a_validation_loss_that_is_not_finite_is_never_the_best(tmp_path):
    run = validated(tmp_path, {4: math.nan, 8: math.inf, 9: math.nan})
    run.run()
    assert all("validation/loss" not in row for row in run.metrics.rows())
    with pytest.raises(UserError, match="the validation loss was never finite"):
        run.choose_weights()


def test_a_best_checkpoint_that_is_damaged_is_named(tmp_path):
    run = validated(tmp_path)
    run.run()
    (tmp_path / "checkpoints" / "step-000000008" / "tensors.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"step-000000008 is damaged \(tensors\.safetensors is not what its checksum says"):
        run.choose_weights()


def test_rows_tell_what_was_minimised(tmp_path):
    run = trainer(tmp_path)
    run.run()
    for row in run.metrics.rows():
        assert row["loss"] == pytest.approx(row["contrastive"] + row["auxiliary"], rel=1e-5)
        assert 0 <= row["block1/text_placed"] <= 1
    assert [row["step"] for row in run.metrics.rows()] == [3, 6, 9]
    tokens = {(r["step"], r["modality"]): r["tokens"] for r in run.routing.rows()}
    assert tokens[3, "image"] == 3 * 8 * 4  # three steps of 8 pairs of 4 patches
    assert tokens[3, "text"] == sum(int(batch(seed=i).lengths_B.sum()) for i in range(3))


class SameBatch(Batches):
    """One batch, which can be learnt by heart."""

    def __next__(self) -> PairBatch:
        return batch(seed=0)


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "muon"])
def test_every_optimiser_lowers_the_loss(tmp_path, optimizer):
    settings = {"steps": 24, "log_every": 6, "schedule": "wsd", "cooldown": 6}
    run = trainer(tmp_path, loader=SameBatch(), optimizer=optimizer, **settings)
    run.run()
    losses = [row["contrastive"] for row in run.metrics.rows()]
    assert losses[0] > losses[-1]
    assert losses[-1] < 0.5 * math.log(8)  # of what guessing among 8 pairs costs


def test_the_rate_of_a_group_is_the_schedules_times_its_own(tmp_path):
    run = trainer(tmp_path, lr_scale=SCALES, steps=3, schedule="wsd", cooldown=0, log_every=1)
    run.run()
    assert [row["lr"] for row in run.metrics.rows()] == [0.005, 0.01, 0.01]
    assert {group["lr"] for group in run.optimizer.param_groups} == {0.005, 0.02, 0.01}


def test_averaged_weights_take_in_the_steps_that_were_taken(tmp_path):
    seen = []

    class Watched(Batches):  # each batch is asked for when the step before it is done
        def __next__(self):
            seen.append(run.model.patch.weight.detach().clone())
            return super().__next__()

    run = trainer(tmp_path, loader=Watched({1}), steps=3, ema=0.5)
    run.run()
    assert run.guard.skipped == 1
    first, last = seen[1], run.model.patch.weight.detach()
    assert torch.equal(seen[2], first)  # the second batch was broken
    torch.testing.assert_close(run.ema.state_dict()["patch.weight"], (first + 2 * last) / 3)


def test_averaged_weights_do_not_touch_the_training(tmp_path):
    runs = [trainer(tmp_path / str(ema), ema=ema) for ema in (None, 0.9)]
    for run in runs:
        run.run()
    for name, tensor in runs[0].model.state_dict().items():
        assert torch.equal(runs[1].model.state_dict()[name], tensor), name


def test_norms_by_group_are_those_of_the_whole(tmp_path):
    run = trainer(tmp_path, clip_norm=1e-3)  # which would show if they were taken after it
    run.run()
    for row in run.metrics.rows():
        gradients = {name: value for name, value in row.items() if name.startswith("gradient/")}
        assert len(gradients) == 6
        assert math.sqrt(sum(value**2 for value in gradients.values())) == pytest.approx(row["gradient_norm"], rel=1e-4)
        assert all(0 < row[name.replace("gradient", "update")] < 1 for name in gradients)


def test_a_dense_model_has_no_auxiliary_term(tmp_path):
    run = trainer(tmp_path, kind="dense")
    run.run()
    assert "auxiliary" not in run.metrics.rows()[0]
    assert run.routing.rows() == []


def test_a_bad_batch_is_skipped_and_counted(tmp_path):
    run = trainer(tmp_path, loader=Batches({5}))  # step 6 is logged: its loss is NaN
    run.run()
    assert run.metrics.rows()[-1]["skipped_steps"] == 1
    assert all(torch.isfinite(tensor).all() for tensor in state(run).values())
    assert all("NaN" not in line for line in run.metrics.path.read_text().splitlines())


def test_bad_batches_without_end_stop_the_training(tmp_path):
    run = trainer(tmp_path, loader=Batches({4, 5, 6}))
    with pytest.raises(UserError, match=r"stopped at step 7: diverged: the loss was nan .* not finite for 3 steps in a row"):
        run.run()


def test_the_temperature_is_bounded(tmp_path):
    run = trainer(tmp_path)
    with torch.no_grad():
        run.model.logit_scale.fill_(10.0)
    run.run()
    assert run.model.logit_scale.item() <= MAX_LOG_SCALE + 1e-6


def test_final_metrics_are_means_of_the_last_fifty_steps():
    rows = [
        {"step": step, "loss": float(step), "block1/text_placed": 0.9, "block3/text_placed": 0.5, "skipped_steps": 0}
        for step in range(10, 110, 10)
    ]
    metrics = final_metrics(rows, 100, Rollbacks(PARAMS.train))
    assert metrics == {
        "loss": pytest.approx((60 + 70 + 80 + 90 + 100) / 5),
        "text_placed_min": pytest.approx(0.5),
        "skipped_steps": 0,
    }


def test_a_skipped_step_on_a_logged_row_hides_no_figure():
    rows = [{"step": step, "loss": 2.0, "skipped_steps": 0} for step in (10, 20)] + [{"step": 30, "skipped_steps": 1}]
    assert final_metrics(rows, 30, Rollbacks(PARAMS.train)) == {"loss": 2.0, "skipped_steps": 1}


def test_journals_leave_no_time_of_day(tmp_path):
    run = trainer(tmp_path)
    run.run()
    (tmp_path / "out").mkdir()
    rows = write_journals(tmp_path / "out", run)
    assert rows == without_times(run)
    assert [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()] == rows
    assert len(final_metrics(rows, 9, run.rollbacks)) <= 12
    assert timing(run, Throughput(1.0, 2.0, 3.0))["steps"] == 9
