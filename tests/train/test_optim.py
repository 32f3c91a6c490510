from __future__ import annotations

import math

import pytest
import torch
from modelkit import PARAMS, VOCAB, moe, tower

from limoe.model.limoe import Limoe
from limoe.train.optim import learning_rate, make_optimizer


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


def test_only_matrices_decay():
    model = Limoe(tower(), moe(), VOCAB)
    decayed = {id(p) for p in make_optimizer(model, recipe(weight_decay=0.1)).param_groups[0]["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in decayed}
    assert "patch.weight" in names
    assert "encoder.blocks.1.mlp.router.weight" in names
    assert "encoder.blocks.1.mlp.experts.w1_EDF" in names
    assert "image_projection.weight" in names
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or "position" in name or "token" in name or name.endswith(("b1_EF", "b2_ED")):
            assert name not in names


def test_a_step_equals_adamw_written_out():
    # First step of Adam: the update is lr * sign(gradient) (up to eps), after decay by lr * weight_decay.
    model = Limoe(tower(), None, VOCAB)
    train = recipe(lr=0.01, weight_decay=0.1)
    optimizer = make_optimizer(model, train)
    before = model.patch.weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    optimizer.step()
    torch.testing.assert_close(model.patch.weight.detach(), before * (1 - 0.01 * 0.1) - 0.01, rtol=1e-5, atol=1e-6)
