"""Rollbacks: which checkpoint is good, what goes back and what goes on, that no kill changes them, and how they end."""

from __future__ import annotations

import json
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from healthkit import World, training
from hypothesis import example, given, settings
from hypothesis import strategies as st
from modelkit import PARAMS

from limoe.train import checkpoint
from limoe.train.alarm import Alarm
from limoe.train.health import Stopped, Watch
from limoe.train.loop import Trainer
from limoe.train.optim import optimizer_tensors
from limoe.train.outcome import final_metrics, write_journals
from limoe.train.rollback import Rollbacks

EVERY = {"every": 3, "minutes": None, "keep": 1}
HEALTH = {"action": "rollback", "rollback": {"lr_factor": 0.125, "most": 3}, "window": 4, "grace": 0.5}
SMALL = {"steps": 30, "warmup": 4, "log_every": 2, "checkpoints": EVERY, "dense": True}
WILD = SMALL | {"lr": 0.3}  # at chance as soon as the warm-up is over; an eighth of it learns
HOPELESS = {"rollback": {"lr_factor": 1.0, "most": 3}}  # of the wild rate
ALARM = Alarm("diverged", 1, "as was seen")


def rolling(folder: Path, health=None, **changes) -> Trainer:
    return training(folder, health=HEALTH | (health or {}), **(WILD | changes))


def state(run: Trainer) -> dict[str, torch.Tensor]:
    means = {} if run.ema is None else {f"ema/{name}": tensor for name, tensor in run.ema.state_dict().items()}
    return {**run.model.state_dict(), **optimizer_tensors(run.optimizer, run.model), **means}


def assert_same(one: Trainer, other: Trainer) -> None:
    mine, theirs = state(one), state(other)
    assert mine.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(mine[name], tensor), name


def test_a_rate_far_too_high_recovers(tmp_path):
    run, told = (
        training(tmp_path, health={"action": "rollback", "rollback": {"lr_factor": 0.1, "most": 3}}, lr=0.3, dense=True),
        [],
    )
    run.on_rollback = told.append
    run.run()
    (rollback,) = told
    assert (rollback.step, rollback.to, rollback.lr_factor) == (40, 0, 0.1)  # nothing before was better than guessing
    assert [alarm.name for alarm in run.alarms] == ["loss-at-chance"]
    rows = {row["step"]: row for row in run.metrics.rows()}
    assert list(rows) == list(range(5, 61, 5))
    assert [rows[step]["rollbacks"] for step in (5, 40, 45, 60)] == [0, 0, 1, 1]
    assert rows[40]["contrastive"] > 2.7 > 1.9 > rows[60]["contrastive"], "ln 16 is 2.77"


class Spoilt(World):
    """The pictures of five batches are NaN."""

    def __next__(self):
        spoilt = self.number in range(14, 19)
        pairs = super().__next__()
        if spoilt:
            pairs.images_BCHW.fill_(float("nan"))
        return pairs


LOSS_FREE = {"dense": False, "moe_router": "loss-free", "ema": 0.9, "optimizer": "muon", "lr": 0.01}
LOSS_FREE |= {"checkpoints": EVERY | {"every": 4}}  # so that two steps before the bad ones are given up as well


@pytest.mark.parametrize("loader,to,changes", [(World, 0, WILD), (Spoilt, 12, SMALL | LOSS_FREE)])
def test_after_it_a_training_is_one_that_begins_at_that_step_with_the_old_weights_and_an_eighth_of_the_rate(
    tmp_path, loader, to, changes
):
    run = training(tmp_path / "rolled", loader=loader(), health=HEALTH, **changes)
    run.run()
    (rollback,) = run.rollbacks.done
    assert rollback.to == to
    other = training(tmp_path / "by hand", loader=loader(), **changes)
    other.run(until=to)
    other.train = other.train.model_copy(update={"lr": changes["lr"] / 8})
    other.step = other.loader.number = rollback.step
    other.run()
    assert_same(run, other)
    assert run.loader.number == 30, "no batch was seen twice"
    after = [[row["lr"] for row in one.metrics.rows() if row["step"] > rollback.step] for one in (run, other)]
    assert after[0] == after[1]


class Killed(Exception):
    pass


class Mortal(World):
    """The world ends where a batch is asked for."""

    def __init__(self, end: int) -> None:
        super().__init__()
        self.end = end

    def __next__(self):
        if self.number == self.end:
            raise Killed
        return super().__next__()


def die_at(folder: Path, batch: int, write: bool, often: bool, health=None) -> None:
    """A process that is killed at this batch or, if `write`, in the middle of the next save after it."""
    checkpoints = EVERY | ({"minutes": 1e-9} if often else {})
    run = rolling(folder, health, loader=World() if write else Mortal(batch), checkpoints=checkpoints)
    save = checkpoint.save

    def die(tensors):
        if run.step > batch:
            raise Killed
        return save(tensors)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", die if write else save)
        with suppress(Killed, Stopped):  # it may be beyond that moment
            run.run()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Trainer, list[dict]]:
    run, rows = rolling(tmp_path_factory.mktemp("whole")), []
    run.saver.on_rows = rows.extend
    run.run()
    assert [(rollback.step, rollback.to) for rollback in run.rollbacks.done] == [(20, 0)]
    assert [row["step"] for row in rows] == list(range(2, 31, 2)), "each row once"
    return run, rows


@given(kills=st.lists(st.tuples(st.integers(0, 29), st.booleans(), st.booleans()), min_size=1, max_size=2))
@example(kills=[(19, False, False), (19, True, False), (20, False, False), (20, True, True)])
@settings(max_examples=6)
def test_kills_at_any_moment_change_nothing(whole, kills):
    undisturbed, rows = whole
    with tempfile.TemporaryDirectory() as folder:
        for kill in kills:
            die_at(Path(folder), *kill)
        handed = []
        run = rolling(Path(folder))
        run.saver.on_rows = handed.extend
        run.run()
        assert_same(run, undisturbed)
        assert run.rollbacks.state_dict() == undisturbed.rollbacks.state_dict()
        assert run.loader.number == undisturbed.loader.number
        assert run.alarms == undisturbed.alarms
        assert [row | {"time": 0} for row in handed] == [row | {"time": 0} for row in rows]


def test_a_rollback_that_is_saved_is_not_decided_again(tmp_path):
    with pytest.raises(Killed):
        rolling(tmp_path, loader=Mortal(20)).run()
    again, told = rolling(tmp_path), []
    again.on_rollback = told.append
    assert (again.step, again.rollbacks.lr_factor) == (20, 0.125)
    again.run()
    assert told == []


def test_after_so_many_the_next_alarm_stops_it(tmp_path):
    def run() -> str:
        with pytest.raises(Stopped, match=r"stopped at step 24 after 3 rollbacks: diverged: .* 5 steps in a row") as stopped:
            rolling(tmp_path, lr=1e20).run()
        return str(stopped.value)

    assert run() == run(), "and stops it at once when it is run again"
    again = rolling(tmp_path, lr=1e20)
    assert [(rollback.step, rollback.to) for rollback in again.rollbacks.done] == [(6, 0), (12, 6), (18, 12)]
    assert [rollback.lr_factor for rollback in again.rollbacks.done] == [1 / 8, 1 / 64, 1 / 512]
    assert [alarm.step for alarm in again.alarms] == [6, 12, 18, 24]


def stopped(run: Trainer) -> str:
    with pytest.raises(Stopped) as error:
        run.run()
    return str(error.value)


def test_a_training_that_has_not_recovered_by_its_last_step_is_no_success(tmp_path):
    run, told = rolling(tmp_path, HOPELESS), []
    run.on_alarm = lambda alarm: told.append((alarm.name, alarm.step, run.stopping is not None))
    sentence = stopped(run)
    assert sentence.startswith("training stopped at step 30 after 1 rollback: loss-at-chance: the contrastive loss is 2.77")
    assert told == [("loss-at-chance", 20, False), ("loss-at-chance", 30, True)], "whose grace would have ended at 35"
    assert [(rollback.step, rollback.to) for rollback in run.rollbacks.done] == [(20, 0)]
    assert [alarm.step for alarm in run.alarms] == [20, 30]
    assert stopped(rolling(tmp_path, HOPELESS)) == sentence, "at once when it is run again"


@pytest.mark.parametrize("kill", [(19, False, False), (20, True, False), (29, False, True), (29, True, False)])
def test_kills_do_not_change_that(tmp_path, kill):
    sentence = stopped(rolling(tmp_path / "whole", HOPELESS))
    die_at(tmp_path / "killed", *kill, health=HOPELESS)
    assert stopped(rolling(tmp_path / "killed", HOPELESS)) == sentence


@pytest.mark.parametrize(
    "changes,rollbacks,sentence",
    [
        ({"grace": 0.75}, [(28, 0)], r"step 30 after 1 rollback: loss-at-chance: the contrastive loss is"),
        ({"grace": 0.85}, [], r"step 30: loss-at-chance: the contrastive loss is"),
        ({"lr": 1e20, "steps": 10}, [(6, 0)], r"step 10 after 1 rollback: diverged: the loss of the last step is not finite"),
    ],
)
def test_nor_is_one_with_too_few_steps_left_to_tell(tmp_path, changes, rollbacks, sentence):
    """The window is not full, the alarm comes with the last step, or no step could be judged."""
    health = HOPELESS | {name: changes.pop(name) for name in ("grace",) if name in changes}
    run = rolling(tmp_path, health, **changes)
    with pytest.raises(Stopped, match=f"stopped at {sentence}"):
        run.run()
    assert [(rollback.step, rollback.to) for rollback in run.rollbacks.done] == rollbacks


def test_good_weights_and_a_few_steps_more_are_one(tmp_path):
    run = rolling(tmp_path, loader=Spoilt(), lr=0.01, steps=21)
    run.run()
    (rollback,) = run.rollbacks.done
    assert (rollback.step, rollback.to) == (19, 15)
    assert not run.watch.healthy, "its window is not full"
    assert run.watch.alarms == []


def test_batches_that_break_a_training_are_left_out(tmp_path):
    run = rolling(tmp_path, loader=Spoilt(), lr=0.01)
    run.run()
    (rollback,) = run.rollbacks.done
    assert (rollback.step, rollback.to) == (19, 15), "15 is the newest multiple of 3 that is older than 4 steps"
    assert run.metrics.rows()[-1]["skipped_steps"] == 5
    assert [row["step"] for row in run.bad_batches.rows()] == [15, 16, 17, 18, 19]
    assert run.metrics.rows()[-1]["contrastive"] < 2.0


def plan(every=100, window=50, most=3, action="rollback") -> Rollbacks:
    health = PARAMS.train.health.model_dump() | {"action": action, "window": window, "rollback": {"lr_factor": 0.5, "most": most}}
    checkpoints = {"every": every, "minutes": None, "keep": 2}
    return Rollbacks(
        type(PARAMS.train).model_validate(PARAMS.train.model_dump() | {"health": health, "checkpoints": checkpoints})
    )


def test_the_last_good_checkpoint_is_healthy_and_older_than_the_window():
    rollbacks = plan()
    for step, healthy in ((0, False), (100, True), (130, True), (200, True)):
        rollbacks.saving(step, healthy)
    assert [rollbacks.good(step) for step in (149, 150, 180, 249, 250)] == [0, 100, 100, 100, 200], "130: a signal's"
    rollbacks.saving(300, False)
    assert rollbacks.good(350) == 200
    rollback = rollbacks.add(260, [ALARM])
    assert (rollback.step, rollback.to, rollback.lr_factor) == (260, 200, 0.5)
    rollbacks.saving(260, False)
    assert rollbacks.good(5000) == 260, "which holds the weights of 200; 100 and 200 are another life's"
    rollbacks.saving(300, True)
    assert (rollbacks.good(349), rollbacks.good(350)) == (260, 300)


def test_as_many_checkpoints_stay_as_an_alarm_may_need():
    rollbacks = plan(every=10, window=30)
    needed = {step: rollbacks.saving(step, healthy=step != 50) for step in range(0, 101, 10)}
    assert set(needed[0]) == {0}
    assert set(needed[30]) == {0, 10, 20, 30}
    assert set(needed[60]) == {30, 40, 60}
    assert set(needed[80]) == {40, 60, 70, 80}, "50 was not healthy"
    assert plan(action="warn").saving(100, True) == ()
    exhausted = plan(most=1)
    exhausted.add(60, [ALARM])
    assert exhausted.saving(100, True) == ()


def test_its_state_is_json(tmp_path):
    rollbacks, again = plan(), plan()
    rollbacks.add(60, [ALARM, Alarm("text-collapse@block1", 60, "likewise")])
    rollbacks.saving(100, True)
    again.load_state_dict(json.loads(json.dumps(rollbacks.state_dict())))
    assert (again.done, again.good(150)) == (rollbacks.done, 100)


def test_the_good_checkpoint_stays_on_disk(tmp_path):
    run = rolling(tmp_path, lr=0.01)
    run.run(until=11)
    kept = {int(path.name.removeprefix("step-")) for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {0, 9} | {good for good in (6, 9) if good in run.rollbacks.saving(11, False)}
    assert run.rollbacks.good(11) in kept


def test_a_watch_that_went_back_fills_its_window_and_gives_the_weights_their_grace():
    train = type(PARAMS.train).model_validate(
        PARAMS.train.model_dump()
        | {"steps": 100, "batch": 16, "health": PARAMS.train.health.model_dump() | {"window": 20, "grace": 0.3}}
    )
    watch = Watch(train, None)
    bad = [{"step": step, "contrastive": 2.8} for step in range(10, 101, 10)]  # ln 16 is 2.77
    raised = [step for step, row in enumerate(bad) if watch.see(row)]
    assert raised == [4], "step 50: 20 steps behind the first 30"
    watch = Watch(train, None)
    for row in bad[:3]:
        watch.see(row)
    watch.restart(30, to=10)
    assert [row["step"] for row in bad[3:] if watch.see(row)] == [70], "20 later than 50"


def test_at_the_last_step_a_watch_that_went_back_waits_for_nothing():
    rows = [{"step": step, "contrastive": 2.8} for step in range(70, 101, 10)]
    changes = {"steps": 100, "batch": 16, "health": PARAMS.train.health.model_dump() | {"window": 20, "grace": 0.3}}
    train = type(PARAMS.train).model_validate(PARAMS.train.model_dump() | changes)

    def judged(rows: list[dict]) -> list[tuple[str, int]]:
        watch = Watch(train, None)
        watch.restart(60, to=0)
        return [(alarm.name, alarm.step) for row in rows for alarm in watch.see(row)]

    assert judged(rows) == judged(rows[-1:]) == [("loss-at-chance", 100)], "the grace ends at 110"
    assert judged(rows[:-1]) == [], "which is not the last step"
    well = [row | {"contrastive": 1.0} for row in rows]
    assert judged(well) == judged(well[-1:]) == []
    assert judged([*well[:-1], {"step": 100}]) == [("diverged", 100)], "the last step was skipped"


def test_the_best_is_not_measured_where_its_weights_are_given_up(tmp_path):
    measured = []

    def validate():
        measured.append(run.step)
        return {"loss": float(run.step == 30)}

    run = rolling(tmp_path, export="best", checkpoints=EVERY | {"every": 4})
    run.best._validate = validate
    run.run()
    (rollback,) = run.rollbacks.done
    assert rollback.step == 20
    assert measured == [4, 8, 12, 16, 24, 28, 30]
    run.choose_weights()


def test_what_was_given_up_is_in_no_mean_and_all_is_written_down(tmp_path):
    run = rolling(tmp_path / "run")
    run.run()
    rows = write_journals(tmp_path, run)
    written = json.loads((tmp_path / "health.json").read_text())
    (rollback,) = written["rollbacks"]
    assert written["alarms"] == rollback["alarms"]
    assert (rollback["step"], rollback["to"], rollback["lr_factor"]) == (20, 0, 0.125)
    metrics = final_metrics(rows, 30, run.rollbacks)
    later = [row["contrastive"] for row in rows if row["step"] > 20]
    assert metrics["contrastive"] == pytest.approx(sum(later) / len(later))
    assert metrics["rollbacks"] == 1
