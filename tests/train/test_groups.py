from __future__ import annotations

import math

import pytest
import torch
from modelkit import EOS, PARAMS, VOCAB, moe, tower

from limoe.model.clip import Clip
from limoe.model.limoe import Limoe
from limoe.train.groups import GROUPS, GroupNorms, decays, group_of, is_matrix

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


DECAYED = {
    "limoe": {
        "patch.weight",
        "image_projection.weight",
        "text_projection.weight",
        "encoder.blocks.0.attention.qkv.weight",
        "encoder.blocks.0.attention.out.weight",
        "encoder.blocks.0.mlp.up.weight",
        "encoder.blocks.0.mlp.down.weight",
        "encoder.blocks.1.attention.qkv.weight",
        "encoder.blocks.1.attention.out.weight",
        "encoder.blocks.1.mlp.router.weight",
        "encoder.blocks.1.mlp.experts.w1_EDF",
        "encoder.blocks.1.mlp.experts.w2_EFD",
    },
    "clip": {
        "clip.text_projection",
        "clip.visual.proj",
        "clip.visual.conv1.weight",
        *(
            f"{stack}.0.{part}"
            for stack in ("clip.visual.transformer.resblocks", "clip.transformer.resblocks")
            for part in ("attn.in_proj_weight", "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
        ),
    },
}
DECAYED["dense"] = {name for name in DECAYED["limoe"] if "blocks.1." not in name} | {
    f"encoder.blocks.1.{part}.weight" for part in ("attention.qkv", "attention.out", "mlp.up", "mlp.down")
}
TABLES = {  # matrices without decay
    "limoe": {"image_position", "text_position", "token.weight"},
    "dense": {"image_position", "text_position", "token.weight"},
    "clip": {"clip.positional_embedding", "clip.visual.positional_embedding", "clip.token_embedding.weight"},
}


def first_blocks(name):
    """Whether a parameter lies in no block, or in one of the blocks that the tables above name."""
    number = next((int(part) for part in name.split(".") if part.isdigit()), 0)
    return number < (1 if name.startswith("clip.") else 2)


@pytest.mark.parametrize("contestant", ["limoe", "dense", "clip"])
def test_matrices_decay_and_nothing_else(contestant):
    model, _ = contestants()[contestant]
    found = {name for name, parameter in model.named_parameters() if decays(name, parameter)}
    assert {name for name in found if first_blocks(name)} == DECAYED[contestant]


@pytest.mark.parametrize("contestant", ["limoe", "dense", "clip"])
def test_one_row_an_expert_is_no_matrix(contestant):
    model, _ = contestants()[contestant]
    found = {name for name, parameter in model.named_parameters() if is_matrix(name, parameter) and first_blocks(name)}
    assert found == (DECAYED[contestant] | TABLES[contestant]) - {"encoder.blocks.1.mlp.router.weight"}
