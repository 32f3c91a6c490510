"""Sparse upcycling (arXiv 2212.05055): a dense tower's weights become a LIMoE whose evaluation equals the dense tower's.

Every expert of a sparse block is a copy of the dense MLP there, so whichever experts a token visits, the sum of their outputs is
the dense output times the sum of its gates. There are two ways to make that 1:

- `moe.renormalise` false (the paper's gates, which are probabilities): routers start at zero, so that every gate is 1/E and K of
  them sum to K/E, and the experts' output layer (w2, b2) is scaled by E/K. The price: a token whose gate grows towards 1 in
  training gets up to E/K times the dense output, which the experts must unlearn. And zero routers at first follow their noise.
- `moe.renormalise` true: gates sum to 1 whatever the router says. Nothing is scaled, and routers start with their usual random
  weights. It needs K >= 2 (with one expert the gate is 1, and the router would learn nothing from it), and is to be preferred
  where E/K is large.

`moe.init` says nothing here: experts start as copies. Axes: E experts, D width, F hidden width.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from limoe.config import ModelParams, MoeParams
from limoe.errors import UserError
from limoe.files import read_json
from limoe.model.io import ModelConfig, build_model, load_model, read_config, save_model
from limoe.placement import moe_layers

EXPERT = re.compile(r"(.*\.mlp\.)experts\.(w1_EDF|b1_EF|w2_EFD|b2_ED)")
DENSE_NAMES = {"w1_EDF": "up.weight", "b1_EF": "up.bias", "w2_EFD": "down.weight", "b2_ED": "down.bias"}
OUTPUT = ("w2_EFD", "b2_ED")


def refuse_inexact(moe: MoeParams) -> None:
    """UserError for settings whose first evaluation could not equal the dense one's, or that would start with a collapse."""
    if moe.renormalise or moe.router == "uniform":
        return
    if moe.router == "expert-choice":
        raise UserError(
            "upcycling with model.moe.router = expert-choice needs model.moe.renormalise = true: a token is taken by any number "
            "of experts, so no factor makes their probabilities sum to 1"
        )
    if moe.noise == 0:
        raise UserError(
            "upcycling needs model.moe.noise > 0 unless model.moe.renormalise is true: routers start at zero, and without noise "
            "every token would go to the same experts"
        )


def upcycled_config(dense: ModelConfig, moe: MoeParams) -> ModelConfig:
    """The LIMoE with the dense model's tower; UserError if that cannot be (see `refuse_inexact`), or if `dense` is not dense."""
    if dense.kind != "dense":
        raise UserError(f"only a dense model can be upcycled, and this one is {dense.kind}")
    refuse_inexact(moe)
    try:
        moe_layers(dense.tower.depth, moe.blocks)
        return ModelConfig.model_validate({**dense.model_dump(), "kind": "limoe", "moe": moe.model_dump()})
    except ValueError as error:
        raise UserError(f"upcycling this tower: {error}") from None


def upcycle(dense: Mapping[str, Tensor], fresh: Mapping[str, Tensor], moe: MoeParams) -> dict[str, Tensor]:
    """The state of a LIMoE whose evaluation equals, to rounding, that of the dense tower with the state `dense`.

    fresh: state of a newly built LIMoE of the same tower; its router weights are kept if gates are renormalised, its routers'
    buffers always, and all its shapes. Tensors have the dtype of `dense`. ValueError where a shape does not fit.
    """
    scale = 1.0 if moe.renormalise else moe.experts / moe.k
    state = {}
    for name, made in fresh.items():
        if (expert := EXPERT.fullmatch(name)) is not None:
            prefix, weight = expert.groups()
            copied = dense[prefix + DENSE_NAMES[weight]].t() * (scale if weight in OUTPUT else 1.0)
            state[name] = copied.expand(moe.experts, *copied.shape).clone(memory_format=torch.contiguous_format)
        elif ".mlp.router." in name:
            state[name] = torch.zeros_like(made) if name.endswith("router.weight") and not moe.renormalise else made
        else:
            state[name] = dense[name]
        if state[name].shape != made.shape:
            raise ValueError(f"{name} would be {tuple(state[name].shape)}, must be {tuple(made.shape)}: not the same tower")
    return state


def upcycle_directory(source: Path, out: Path, model_params: ModelParams, seed: int) -> None:
    """Write the model directory `out`, a LIMoE made of the dense model directory `source`. seed: of renormalised routers.

    UserError if `source` is no dense model directory or has another tower than the settings, `out` exists, or they are refused.
    """
    moe = model_params.moe
    if os.path.lexists(out):
        raise UserError(f"{out}: already there; name a folder that does not exist yet")
    dense = read_config(source)
    for name, ours in model_params.tower:
        if (theirs := getattr(dense.tower, name)) != ours:
            raise UserError(f"{source}: its tower has {name} {theirs}, and model.tower.{name} is {ours}: set it to {theirs}")
    try:
        config = upcycled_config(dense, moe)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    tokenizer, preprocess = source / "tokenizer.json", read_json(source / "preprocess.json")
    if not tokenizer.is_file():
        raise UserError(f"{tokenizer}: no such file")
    torch.manual_seed(seed)
    model = build_model(config)
    model.load_state_dict(upcycle(load_model(source).state_dict(), model.state_dict(), moe))
    save_model(out, config, model.state_dict(), tokenizer, preprocess)
