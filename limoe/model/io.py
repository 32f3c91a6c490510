"""Building a model from its config, and the model directory: config.json, model.safetensors, tokenizer.json, preprocess.json."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from limoe.config import ClipParams, MoeParams, Section, TowerParams
from limoe.errors import UserError
from limoe.files import atomic_directory, read_json, write_bytes, write_json
from limoe.model.clip import Clip
from limoe.model.limoe import Limoe
from limoe.paramsfile import explain


class ModelConfig(Section):
    """All that is needed to build the model that a checkpoint belongs to.

    moe is given for kind `limoe` alone, clip and text_width (channels of the text tower) for kind `clip` alone, init_bias for
    the sigmoid loss alone.
    """

    version: Literal[1] = 1
    kind: Literal["limoe", "dense", "clip"]
    tower: TowerParams
    moe: MoeParams | None = None
    clip: ClipParams | None = None
    text_width: int | None = None
    vocab_size: int
    eos_id: int
    init_scale: float
    init_bias: float | None = None


Model = Limoe | Clip  # what a task trains and an evaluator runs


def build_model(config: ModelConfig) -> Model:
    """A freshly initialised model (torch's global generator draws the weights)."""
    if config.kind == "clip":
        if config.clip is None or config.text_width is None:
            raise UserError("a model config of kind clip needs clip and text_width")
        sizes = (config.text_width, config.vocab_size, config.eos_id)
        return Clip(config.tower, config.clip, *sizes, config.init_scale, config.init_bias)
    moe = config.moe if config.kind == "limoe" else None
    if config.kind == "limoe" and moe is None:
        raise UserError("a model config of kind limoe needs moe")
    return Limoe(config.tower, moe, config.vocab_size, config.init_scale, init_bias=config.init_bias)


def save_model(folder: Path, config: ModelConfig, model: nn.Module, tokenizer: Path, preprocess: dict[str, Any]) -> None:
    """Write a model directory, whole or not at all."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_directory(folder) as temporary:
        write_json(temporary / "config.json", config.model_dump(mode="json"))
        write_bytes(temporary / "model.safetensors", save(tensors))
        write_json(temporary / "preprocess.json", preprocess)
        shutil.copyfile(tokenizer, temporary / "tokenizer.json")


def read_config(folder: Path) -> ModelConfig:
    """The config of a model directory; UserError if there is none or it is not ours."""
    values = read_json(folder / "config.json")
    try:
        return ModelConfig.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{folder / 'config.json'}: {explain(error, ModelConfig)}") from None


def load_model(folder: Path, device: str | torch.device = "cpu") -> Model:
    """The model of a model directory, in evaluation mode; UserError if weights and config do not belong together."""
    model = build_model(read_config(folder))
    path = folder / "model.safetensors"
    try:
        tensors = load(path.read_bytes())
        model.load_state_dict(tensors)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path}: not the weights of the model that config.json describes ({reason})") from None
    return model.eval().to(device)
