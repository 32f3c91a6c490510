from __future__ import annotations

import pytest
import torch
from modelkit import EOS, PARAMS, VOCAB, moe, tower

from limoe.model.clip import Clip
from limoe.model.limoe import Limoe
from limoe.train.groups import decays, group_of
from limoe.train.optim import Optimizers, load_optimizer_tensors, make_optimizer, optimizer_tensors

OPTIMIZERS = ("adamw", "adafactor", "muon")
GOOD = torch.tensor(False)  # not spoilt


def recipe(**changes):
    return type(PARAMS.train).model_validate(PARAMS.train.model_dump() | changes)


def limoe_model(**changes):
    torch.manual_seed(0)
    return Limoe(tower(**changes), moe(), VOCAB)


def pull(model, seed):
    """The same gradients for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def groups_by_name(model, optimizer):
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[parameter]: group for group in optimizer.param_groups for parameter in group["params"]}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["limoe", "clip"])
def test_every_parameter_is_in_one_group_with_its_rates(optimizer, kind):
    model = limoe_model() if kind == "limoe" else Clip(tower(), PARAMS.model.clip, 16, VOCAB, EOS)
    scales = {"router": 0.5, "experts": 2.0, "embeddings": 0.0}
    found = groups_by_name(model, made := make_optimizer(model, recipe(optimizer=optimizer, weight_decay=0.1, lr_scale=scales)))
    assert set(found) == {name for name, _ in model.named_parameters()}
    assert sum(len(group["params"]) for group in made.param_groups) == len(found)
    for name, parameter in model.named_parameters():
        assert found[name]["lr_scale"] == scales.get(group_of(name), 1.0), name
        assert found[name]["weight_decay"] == (0.1 if decays(name, parameter) else 0.0), name


def test_the_default_is_adamw_on_two_groups_to_the_bit():
    ours, theirs = limoe_model(), limoe_model()
    train = recipe()
    decayed = [p for name, p in theirs.named_parameters() if decays(name, p)]
    rest = [p for name, p in theirs.named_parameters() if not decays(name, p)]
    groups = [{"params": decayed, "weight_decay": train.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    made = make_optimizer(ours, train), torch.optim.AdamW(groups, lr=train.lr, betas=(train.beta1, train.beta2), fused=True)
    for step in range(3):
        for model in (ours, theirs):
            pull(model, step)
        made[0].step(GOOD)
        made[1].step()
    assert len(made[0].param_groups) == 2
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_step_equals_adamw_written_out():
    # First step of Adam: the update is lr * sign(gradient) (up to eps), after decay by lr * weight_decay.
    model = Limoe(tower(), None, VOCAB)
    train = recipe(lr=0.01, weight_decay=0.1)
    optimizer = make_optimizer(model, train)
    before = model.patch.weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    optimizer.step(GOOD)
    torch.testing.assert_close(model.patch.weight.detach(), before * (1 - 0.01 * 0.1) - 0.01, rtol=1e-5, atol=1e-6)


KEPT = {  # by optimiser: what is remembered of a parameter; all of these have 32 rows and columns or more
    "adamw": {
        "encoder.blocks.1.mlp.experts.w1_EDF": {"step", "exp_avg", "exp_avg_sq"},
        "encoder.blocks.1.mlp.router.weight": {"step", "exp_avg", "exp_avg_sq"},
    },
    "adafactor": {
        "encoder.blocks.1.mlp.experts.w1_EDF": {"step", "mean", "row", "column"},
        "encoder.blocks.1.attention.qkv.weight": {"step", "mean", "row", "column"},
        "token.weight": {"step", "mean", "row", "column"},
        "encoder.blocks.1.mlp.experts.b1_EF": {"step", "mean", "square"},  # 32 experts, never factored
        "encoder.blocks.1.mlp.router.weight": {"step", "mean", "square"},
    },
    "muon": {
        "encoder.blocks.1.mlp.experts.w2_EFD": {"momentum"},
        "encoder.blocks.1.attention.out.weight": {"momentum"},
        "encoder.blocks.0.mlp.up.weight": {"momentum"},
        "encoder.blocks.1.mlp.experts.b1_EF": {"step", "exp_avg", "exp_avg_sq"},
        "encoder.blocks.1.mlp.router.weight": {"step", "exp_avg", "exp_avg_sq"},
        "token.weight": {"step", "exp_avg", "exp_avg_sq"},
        "image_projection.weight": {"step", "exp_avg", "exp_avg_sq"},
    },
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_is_remembered_of_each_parameter(optimizer):
    model = Limoe(tower(width=32, embed_dim=32), moe(experts=32), VOCAB)
    made = make_optimizer(model, recipe(optimizer=optimizer))
    assert optimizer_tensors(made, model) == {}
    pull(model, 0)
    made.step(GOOD)
    tensors = optimizer_tensors(made, model)
    for name, kept in KEPT[optimizer].items():
        assert {key.rpartition("/")[2] for key in tensors if key.startswith(f"{name}/")} == kept, name


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_state_as_tensors_is_all_of_it(optimizer):
    models = limoe_model(width=32), limoe_model(width=32)
    train = recipe(optimizer=optimizer)
    made = [make_optimizer(model, train) for model in models]
    for step in range(2):
        pull(models[0], step)
        made[0].step(GOOD)
    models[1].load_state_dict(models[0].state_dict())
    saved = {name: tensor.clone() for name, tensor in optimizer_tensors(made[0], models[0]).items()}
    load_optimizer_tensors(made[1], models[1], saved)
    for model, one in zip(models, made, strict=True):
        pull(model, 2)
        one.step(GOOD)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_group_of_rate_zero_is_frozen(optimizer):
    model = limoe_model()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    made = make_optimizer(model, recipe(optimizer=optimizer, lr_scale={"router": 1.0, "experts": 0.0, "embeddings": 1.0}))
    for group in made.param_groups:
        group["lr"] = 0.01 * group["lr_scale"]
    pull(model, 0)
    made.step(GOOD)
    assert {name for name, p in model.named_parameters() if torch.equal(p, before[name])} == {
        name for name in before if group_of(name) == "experts"
    }


@pytest.mark.parametrize("spoilt_at", [0, 2])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_spoilt_step_leaves_weights_and_state_as_they_are(optimizer, spoilt_at):
    """Three good steps, and the same with a spoilt one before the first or the third."""
    ends = []
    for seeds in ([0, 1, 2], [*range(spoilt_at), None, *range(spoilt_at, 3)]):
        model = limoe_model(width=32)
        made = make_optimizer(model, recipe(optimizer=optimizer))
        for seed in seeds:
            pull(model, seed or 0)
            if seed is None:
                for parameter in model.parameters():
                    parameter.grad.view(-1)[-1] = float("nan")
            made.step(torch.tensor(seed is None))
        ends.append(model.state_dict() | optimizer_tensors(made, model))
    assert ends[0].keys() == ends[1].keys()
    for name, tensor in ends[0].items():
        assert torch.equal(ends[1][name], tensor), name


def test_an_optimiser_that_could_not_leave_a_step_out_is_refused():
    parameter = torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(ValueError, match="Muon cannot leave a step out"):
        Optimizers(torch.optim.Muon([torch.nn.Parameter(torch.zeros(2, 2))]), torch.optim.AdamW([parameter], fused=True))
