from __future__ import annotations

import math

import pytest
from modelkit import PARAMS

from limoe.train.schedule import learning_rate


def recipe(**changes):
    return type(PARAMS.train).model_validate(PARAMS.train.model_dump() | changes)


def test_cosine_by_hand():
    train = recipe(lr=1.0, steps=110, warmup=10, schedule="cosine")
    assert learning_rate(0, train) == pytest.approx(0.1)
    assert learning_rate(9, train) == pytest.approx(1.0)
    assert learning_rate(10, train) == pytest.approx(1.0)
    assert learning_rate(60, train) == pytest.approx(0.5)  # halfway
    assert learning_rate(35, train) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert 0 < learning_rate(109, train) < 0.001


def test_rsqrt_by_hand():
    train = recipe(lr=1.0, steps=1000, warmup=100, cooldown=100, schedule="rsqrt")
    assert learning_rate(49, train) == pytest.approx(0.5)
    assert learning_rate(400, train) == pytest.approx(0.5)  # sqrt(100 / 400)
    assert learning_rate(900, train) == pytest.approx(1 / 3)
    assert learning_rate(950, train) == pytest.approx(math.sqrt(100 / 950) / 2)  # half of the cooldown is left
    assert learning_rate(999, train) == pytest.approx(math.sqrt(100 / 999) / 100)


def test_wsd_by_hand():
    train = recipe(lr=0.5, steps=1000, warmup=100, cooldown=200, schedule="wsd")
    rates = {step: learning_rate(step, train) for step in range(1000)}
    assert rates[0] == 0.5 / 100
    assert rates[49] == 0.25
    assert {rates[step] for step in range(99, 801)} == {0.5}  # 200 steps are left at step 800
    assert rates[850] == pytest.approx(0.5 * 0.75)
    assert rates[900] == pytest.approx(0.25)
    assert rates[999] == pytest.approx(0.5 / 200)


def test_wsd_without_a_cooldown_stays_to_the_end():
    train = recipe(lr=0.5, steps=10, warmup=2, cooldown=0, schedule="wsd")
    assert [learning_rate(step, train) for step in range(10)] == [0.25] + [0.5] * 9


@pytest.mark.parametrize("schedule", ["rsqrt", "wsd"])
def test_the_cooldown_goes_on_from_where_the_schedule_was(schedule):
    train, longer = (recipe(lr=1.0, steps=n, warmup=10, cooldown=n - 50, schedule=schedule) for n in (100, 1000))
    assert learning_rate(50, train) == learning_rate(50, longer)
