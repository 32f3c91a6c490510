from __future__ import annotations

import math

import pytest
import torch
from modelkit import EOS, PARAMS, VOCAB, moe, tower

from limoe.model.clip import Clip
from limoe.model.limoe import Limoe
from limoe.train.optim import GROUPS, GroupNorms, group_of, learning_rate, make_optimizer


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


BLOCK = {"norm1": "other", "norm2": "other", "attention.qkv": "attention", "attention.out": "attention"}
DENSE = {"mlp.up": "mlp", "mlp.down": "mlp"}
SPARSE = {"mlp.router": "router", "mlp.experts": "experts"}
TOWER = {
    "image_position": "embeddings",
    "text_position": "embeddings",
    "patch": "embeddings",
    "token": "embeddings",
    "logit_scale": "other",
    "encoder.norm": "other",
    "image_projection": "other",
    "text_projection": "other",
}
CLIP_BLOCK = {"ln_1": "other", "ln_2": "other", "attn": "attention", "mlp": "mlp"}
CLIP = {
    "clip.positional_embedding": "embeddings",
    "clip.visual.positional_embedding": "embeddings",
    "clip.visual.class_embedding": "embeddings",
    "clip.visual.conv1": "embeddings",
    "clip.token_embedding": "embeddings",
    "clip.text_projection": "other",
    "clip.visual.proj": "other",
    "clip.logit_scale": "other",
    "clip.logit_bias": "other",
    "clip.visual.ln_pre": "other",
    "clip.visual.ln_post": "other",
    "clip.ln_final": "other",
}


def blocks(prefix, parts):
    return {f"{prefix}.{i}.{part}": group for i, each in enumerate(parts) for part, group in each.items()}


def contestants():
    sparse, dense = BLOCK | SPARSE, BLOCK | DENSE
    clip = Clip(tower(), PARAMS.model.clip, 16, VOCAB, EOS, init_bias=-10.0)
    towers = ("clip.visual.transformer.resblocks", "clip.transformer.resblocks")
    return {
        "limoe": (Limoe(tower(), moe(), VOCAB), TOWER | blocks("encoder.blocks", [dense, sparse] * 2)),
        "dense": (Limoe(tower(), None, VOCAB), TOWER | blocks("encoder.blocks", [dense] * 4)),
        "clip": (clip, CLIP | blocks(towers[0], [CLIP_BLOCK] * 4) | blocks(towers[1], [CLIP_BLOCK] * 4)),
    }


@pytest.mark.parametrize("contestant", ["limoe", "dense", "clip"])
def test_every_parameter_is_in_the_group_of_its_module(contestant):
    model, expected = contestants()[contestant]
    for name, _ in model.named_parameters():
        module = [known for known in expected if name == known or name.startswith((f"{known}.", f"{known}_"))]
        longest = max(module, key=len, default=None)
        assert longest is not None, name
        assert group_of(name) == expected[longest], name


def test_norms_of_groups_by_hand():
    model = Limoe(tower(), moe(), VOCAB)
    norms = GroupNorms(model)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    sizes = dict.fromkeys((*GROUPS, "other"), 0)
    squares = dict.fromkeys(sizes, 0.0)
    before = norms.weights()
    for name, parameter in model.named_parameters():
        sizes[group_of(name)] += parameter.numel()
        parameter.data += 0.25
        squares[group_of(name)] += float(parameter.detach().double().square().sum())
    assert sum(sizes.values()) == sum(parameter.numel() for parameter in model.parameters())
    assert norms.gradients() == {f"gradient/{g}": pytest.approx(2 * math.sqrt(n), rel=1e-5) for g, n in sizes.items()}
    moved = {f"update/{g}": pytest.approx(0.25 * math.sqrt(n) / math.sqrt(squares[g]), rel=1e-4) for g, n in sizes.items()}
    assert norms.updates(before) == moved
