from __future__ import annotations

import pytest
import torch
from modelkit import VOCAB, moe, tower
from rankcases import trainer
from torch import nn

from limoe.model.limoe import Limoe
from limoe.train.ema import Ema
from limoe.world import ALONE

TAKEN, SPOILT = torch.tensor(False), torch.tensor(True)


def line(value):
    """A model of one weight and one buffer."""
    model = nn.Module()
    model.weight = nn.Parameter(torch.tensor([float(value)]))
    model.register_buffer("count", torch.tensor([0.0]))
    return model


def set_to(model, value):
    with torch.no_grad():
        model.weight.fill_(value)


def mean(ema):
    return ema.state_dict()["weight"].item()


def test_three_steps_by_hand():
    model = line(100)
    ema = Ema(model, 0.5)
    assert mean(ema) == 100  # no step yet
    set_to(model, 8)
    ema.update(TAKEN)
    assert mean(ema) == 8  # the weights that training started from do not count
    set_to(model, 2)
    ema.update(TAKEN)
    assert mean(ema) == pytest.approx((8 * 0.5 + 2) / 1.5)  # 4
    set_to(model, 11)
    ema.update(TAKEN)
    assert mean(ema) == pytest.approx((8 * 0.25 + 2 * 0.5 + 11) / 1.75)  # 8


def test_spoilt_steps_do_not_count():
    model = line(100)
    ema = Ema(model, 0.5)
    ema.update(SPOILT)
    assert mean(ema) == 100
    for value in (8, 2, 11):
        set_to(model, value)
        ema.update(TAKEN)
        ema.update(SPOILT)
    assert mean(ema) == pytest.approx(8)
    assert ema.state_dict()["steps"] == 3


def test_many_steps_are_a_weighted_mean_of_all_of_them():
    model, values = line(0), torch.randn(300, dtype=torch.float64)
    ema = Ema(model, 0.99)
    for value in values:
        set_to(model, float(value))
        ema.update(TAKEN)
    share = 0.99 ** torch.arange(299, -1, -1, dtype=torch.float64)
    assert mean(ema) == pytest.approx(float((share * values).sum() / share.sum()), abs=1e-5)


def test_a_model_of_the_averages_has_the_current_buffers(tmp_path):
    run = trainer(ALONE, tmp_path)
    run.run()
    weights, means = run.weights(), run.ema.state_dict()
    assert_equal(weights["model"], run.model.state_dict())
    assert_equal(weights["ema"], run.model.state_dict() | {name: means[name] for name, _ in run.model.named_parameters()})
    assert all(buffer.any() for name, buffer in weights["ema"].items() if name.endswith("bias_ME"))
    assert not torch.equal(weights["ema"]["token.weight"], weights["model"]["token.weight"])


def assert_equal(found, wanted):
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_its_state_goes_on_from_where_it_was():
    models = Limoe(tower(), moe(router="loss-free"), VOCAB), Limoe(tower(), moe(router="loss-free"), VOCAB)
    first, second = (Ema(model, 0.9) for model in models)

    def step(ema, model, size):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(size)
        ema.update(TAKEN)

    for size in (0.1, 0.2):
        step(first, models[0], size)
    models[1].load_state_dict(models[0].state_dict())
    second.load_state_dict({name: tensor.clone() for name, tensor in first.state_dict().items()})
    for ema, model in zip((first, second), models, strict=True):
        step(ema, model, 0.4)
    assert set(first.state_dict()) == {"steps", *(name for name, _ in models[0].named_parameters())}
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor), name
