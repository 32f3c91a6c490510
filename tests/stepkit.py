"""Tasks and batches for tests of a training's step: float64, plain kernel, every auxiliary term, captions that are equal."""

from __future__ import annotations

import torch
from modelkit import EOS, PARAMS, VOCAB, batch, moe, take, tower

from limoe.config import AUX_TERMS
from limoe.model.clip import Clip
from limoe.model.limoe import Limoe
from limoe.train.step import ContrastiveTask

PAIRS, GROUP, STEP = 16, 2, 5
TWINS = [0, 1, 2, 3, 4, 2, 6, 2, 8, 9, 1, 11, 12, 13, 14, 8]  # which pair's caption each pair has


def task(kind: str = "limoe", shape: dict | None = None, **train) -> ContrastiveTask:
    torch.manual_seed(0)
    recipe = type(PARAMS.train).model_validate(PARAMS.train.model_dump() | {"batch": PAIRS} | train)
    bias = -3.0 if recipe.loss == "sigmoid" else None
    all_terms = {"aux_weights": dict.fromkeys(AUX_TERMS, 1.0), "aux_coefficient": 1.0, "group_pairs": GROUP}
    all_terms |= {"tau_text": 1.4, "tau_image": 1.4}
    experts = moe(**(all_terms | (shape or {}))) if kind == "limoe" else None
    if kind == "clip":
        return ContrastiveTask(Clip(tower(), PARAMS.model.clip, 16, VOCAB, EOS, init_bias=bias), None, recipe, torch.float32)
    model = Limoe(tower(), experts, VOCAB, init_bias=bias, bucket=16).double().train()
    return ContrastiveTask(model, experts, recipe, torch.float32)


def pairs(dtype=torch.float64):
    captions = take(batch(PAIRS, dtype=dtype), TWINS)
    return type(captions)(batch(PAIRS, dtype=dtype).images_BCHW, captions.ids_N, captions.lengths_B, captions.keys)


class Same:
    """A loader of one batch, again and again."""

    def __next__(self):
        return pairs()

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
