"""Trainings that fail for real, each by its settings alone, and healthy ones: what the alarms call them."""

from __future__ import annotations

import json

import pytest
import torch
from healthkit import World, training

from limoe.config import AUX_TERMS
from limoe.train.health import Stopped, alarms_of

WITHOUT = dict.fromkeys(AUX_TERMS, 0.0)


def kinds_of(run) -> set[str]:
    return {alarm.kind for alarm in run.alarms}


@pytest.mark.parametrize("seed", range(5))
def test_healthy_trainings_raise_no_alarm(tmp_path, seed):
    run = training(tmp_path, seed=seed)
    run.run()
    assert run.alarms == []
    assert run.metrics.rows()[-1]["contrastive"] < 0.5


def test_a_healthy_dense_training_raises_none_either(tmp_path):
    run = training(tmp_path, dense=True)
    run.run()
    assert run.alarms == []


# Local entropy alone puts all text on one expert (the paper's section 2.2), and images are served first.
TEXT = {"local_text": 1.0, "importance": 0.1}, {"moe_experts": 32, "moe_capacity_factor": 1.0, "moe_priority": "image-first"}
IMAGE = {"local_image": 1.0, "global_text": 1.0}, {"moe_experts": 16, "moe_priority": "text-first", "moe_tau_text": 2.0}


@pytest.mark.parametrize("weights,changes,kind,not_kind", [(*TEXT, "text", "image"), (*IMAGE, "image", "text")])
def test_a_modality_whose_gates_are_only_sharpened_collapses(tmp_path, weights, changes, kind, not_kind):
    run = training(tmp_path, moe_aux_coefficient=30.0, moe_aux_weights=WITHOUT | weights, **changes)
    run.run()
    assert f"{kind}-collapse@block1" in {alarm.name for alarm in run.alarms}
    assert f"{not_kind}-collapse" not in kinds_of(run)
    assert run.metrics.rows()[-1][f"block1/{kind}_placed"] < 0.25


def test_many_experts_without_balancing_are_dead(tmp_path):
    run = training(tmp_path, steps=40, moe_experts=256, moe_capacity_factor=16.0, moe_aux_coefficient=0.0)
    run.run()
    assert [alarm.name for alarm in run.alarms] == ["dead-experts@block1"]


def test_a_temperature_that_grows_to_its_bound(tmp_path):
    # Sixteen kinds on a circle: neighbours lie so near to each other that only the scale can tell them apart.
    run = training(tmp_path, embed_dim=2, init_scale=50.0, lr=0.02, beta2=0.9, steps=300, dense=True)
    run.run()
    assert [alarm.name for alarm in run.alarms] == ["temperature-runaway"]


def test_a_learning_rate_that_learns_nothing_is_a_loss_at_chance(tmp_path):
    run = training(tmp_path, lr=1e-6)
    run.run()
    assert kinds_of(run) == {"loss-at-chance"}


def test_a_learning_rate_that_overflows_has_diverged(tmp_path):
    run = training(tmp_path, lr=1e20)
    with pytest.raises(Stopped, match=r"diverged: .* not finite for 5 steps in a row .* usually helps: a lower train\.lr"):
        run.run()
    assert kinds_of(run) == {"diverged"}


def test_a_router_forced_onto_one_expert_is_named_by_all_that_follows(tmp_path):
    run = training(tmp_path, lr=1e-4)
    with torch.no_grad():  # every token's logits are those of expert 0 and nothing
        router = run.model.encoder.blocks[1].mlp.router
        run.model.encoder.blocks[1].norm2.bias.fill_(5.0)
        router.weight.zero_()[0] = 5.0
    run.run()
    assert kinds_of(run) >= {"text-collapse", "image-collapse", "dead-experts"}


STUCK = {"lr": 1e-6, "health": {"action": "stop"}}


def test_an_alarm_stops_the_training_and_stops_it_again(tmp_path):
    run, told = training(tmp_path, **STUCK), []
    run.on_alarm = told.append
    with pytest.raises(Stopped, match="stopped at step 40: loss-at-chance: the contrastive loss is") as first:
        run.run()
    assert run.step == 40
    assert told == run.alarms == [first.value.alarm]

    class Untouched(World):
        def __next__(self):
            raise AssertionError("nothing is left to train")

    again = training(tmp_path, loader=Untouched(), **STUCK)
    with pytest.raises(Stopped) as second:
        again.run()
    assert str(second.value) == str(first.value)


class Killed(Exception):
    pass


@pytest.mark.parametrize("killed_after", [25, 37, 50])
def test_a_resumed_training_raises_the_same_alarms_once(tmp_path, killed_after):
    whole = training(tmp_path / "whole", lr=1e-6)
    whole.run()

    class Mortal(World):
        def __next__(self):
            if self.number == killed_after:
                raise Killed
            return super().__next__()

    with pytest.raises(Killed):
        training(tmp_path / "torn", lr=1e-6, loader=Mortal()).run()
    torn = training(tmp_path / "torn", lr=1e-6)
    torn.run()
    assert len(whole.alarms) == 1
    assert torn.alarms == whole.alarms == alarms_of(whole.metrics.rows(), whole.train, 8)


class Spoilt(World):
    """The pictures of some batches are NaN."""

    def __init__(self, numbers):
        super().__init__()
        self.numbers = numbers

    def __next__(self):
        spoilt = self.number in self.numbers
        pairs = super().__next__()
        if spoilt:
            pairs.images_BCHW.fill_(float("nan"))
        return pairs


def test_bad_batches_are_written_down_with_all_keys_and_once(tmp_path):
    class Mortal(Spoilt):
        def __next__(self):
            if self.number == 24:
                raise Killed
            return super().__next__()

    with pytest.raises(Killed):
        training(tmp_path, loader=Mortal({3, 22})).run()
    run = training(tmp_path, loader=Spoilt({3, 22}))
    run.run()
    first, second = run.bad_batches.rows()
    assert (first["step"], second["step"]) == (4, 23)
    assert first["loss"] == "nan"
    assert set(first) == {"step", "loss", "gradient_norm", "keys"}
    assert sorted(first["keys"]) == sorted(f"3-{kind}" for kind in range(16))
    assert run.metrics.rows()[-1]["skipped_steps"] == 2
    assert run.alarms == []


def test_a_gradient_that_is_not_finite_skips_the_step_though_the_loss_is(tmp_path):
    run = training(tmp_path, steps=1, warmup=1, log_every=1)
    before = {name: parameter.detach().clone() for name, parameter in run.model.named_parameters()}
    run.model.patch.weight.register_hook(lambda gradient: gradient * float("inf"))
    run.run()
    (bad,) = run.bad_batches.rows()
    assert json.loads(bad["loss"]) > 0
    assert bad["gradient_norm"] in ("inf", "nan")
    for name, parameter in run.model.named_parameters():
        assert torch.equal(parameter, before[name]), name
    (row,) = run.metrics.rows()
    assert row["skipped_steps"] == 1
    assert not [name for name in row if name.startswith("update/")]


def test_rows_of_skipped_steps_tell_of_no_collapse(tmp_path):
    run = training(tmp_path, loader=Spoilt(set(range(30, 40))), max_bad_steps=20)  # two rows, and a whole window
    run.run()
    assert run.alarms == []
    rows = {row["step"]: "block1/text_placed" in row for row in run.metrics.rows()}
    assert [step for step, told in rows.items() if not told] == [35, 40]
