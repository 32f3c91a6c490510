"""Building a model from its config, and the model directory: config.json, model.safetensors (or its shards), tokenizer.json and
preprocess.json."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from limoe.config import ClipParams, MoeParams, Section, TowerParams
from limoe.errors import UserError
from limoe.files import atomic_directory, read_json, write_bytes, write_json
from limoe.model.clip import Clip
from limoe.model.limoe import Limoe
from limoe.model.shards import INDEX, SHARD_BYTES, WHOLE, divide, index, weight_files
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
    text_width: int | None = Field(default=None, ge=1)
    vocab_size: int = Field(ge=1)
    eos_id: int = Field(ge=0)
    init_scale: float = Field(gt=0)
    init_bias: float | None = None

    @model_validator(mode="after")
    def _describes_a_model(self) -> Self:
        if self.eos_id >= self.vocab_size:
            raise ValueError(f"eos_id ({self.eos_id}) must be below vocab_size ({self.vocab_size})")
        if self.kind == "limoe" and self.moe is None:
            raise ValueError("the kind limoe needs moe")
        if self.kind == "clip" and (self.clip is None or self.text_width is None):
            raise ValueError("the kind clip needs clip and text_width")
        if self.text_width is not None and self.text_width % self.tower.heads:
            raise ValueError(f"text_width ({self.text_width}) must be a multiple of heads ({self.tower.heads})")
        return self


Model = Limoe | Clip  # what a task trains and an evaluator runs


def build_model(config: ModelConfig) -> Model:
    """A fresh model (torch's global generator draws the weights); ValueError if moe.blocks does not fit the tower."""
    if config.kind == "clip":
        assert config.clip is not None
        assert config.text_width is not None
        sizes = (config.text_width, config.vocab_size, config.eos_id)
        return Clip(config.tower, config.clip, *sizes, config.init_scale, config.init_bias)
    moe = config.moe if config.kind == "limoe" else None
    return Limoe(config.tower, moe, config.vocab_size, config.init_scale, init_bias=config.init_bias)


def save_model(
    folder: Path,
    config: ModelConfig,
    weights: Mapping[str, Tensor],
    tokenizer: Path,
    preprocess: dict[str, Any],
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a model directory, whole or not at all. weights: a model's state_dict. shard_bytes: of tensors in a file; larger ones
    are sharded."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    sizes = {name: tensor.nbytes for name, tensor in tensors.items()}
    files = divide(sizes, shard_bytes)
    with atomic_directory(folder) as temporary:
        write_json(temporary / "config.json", config.model_dump(mode="json"))
        for file in dict.fromkeys(files.values()):
            write_bytes(temporary / file, save({name: tensor for name, tensor in tensors.items() if files[name] == file}))
        if WHOLE not in files.values():
            write_json(temporary / INDEX, index(files, sizes))
        write_json(temporary / "preprocess.json", preprocess)
        shutil.copyfile(tokenizer, temporary / "tokenizer.json")


def read_config(folder: Path) -> ModelConfig:
    """The config of a model directory; UserError if there is none or it is not ours."""
    values = read_json(folder / "config.json")
    try:
        return ModelConfig.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{folder / 'config.json'}: {explain(error, ModelConfig)}") from None
    except OverflowError as error:
        raise UserError(f"{folder / 'config.json'}: no model is so large ({error})") from None


def load_model(folder: Path, device: str | torch.device = "cpu") -> Model:
    """The model of a model directory, in evaluation mode; UserError if weights and config do not belong together."""
    config, files = read_config(folder), weight_files(folder)
    tensors = {name: tensor for file in files for name, tensor in _tensors(folder / file, files[file]).items()}
    others = f"{folder / (WHOLE if WHOLE in files else INDEX)}: not the weights of the model that config.json describes"
    if not _may_be_of(config, tensors):
        raise UserError(f"{others} (no tensor is as large as it says, or there are more blocks than tensors)")
    try:
        model = build_model(config)
    except ValueError as error:
        raise UserError(f"{folder / 'config.json'}: {error}") from None
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(f"{others} ({_short(error)})") from None
    return model.eval().to(device)


def _may_be_of(config: ModelConfig, tensors: Mapping[str, Tensor]) -> bool:
    """Whether some tensor is as large as each of the model's sizes, and there is one for each block: what is far larger than its
    weights would take time and memory without end before it is found not to fit them."""
    tower, blocks = config.tower, config.tower.depth
    sizes = [tower.patch_size, tower.image_tokens, tower.text_length, tower.width, tower.embed_dim, config.vocab_size]
    sizes.append(tower.hidden - 1)  # open_clip rounds it down
    if config.kind == "limoe" and config.moe is not None:
        sizes.append(config.moe.experts)
    if config.kind == "clip" and config.clip is not None and config.text_width is not None:
        sizes.append(config.text_width)
        blocks += config.clip.text_depth
    return max(sizes) <= max((size for tensor in tensors.values() for size in tensor.shape), default=0) and blocks <= len(tensors)


def _tensors(path: Path, expected: set[str]) -> dict[str, Tensor]:
    """What a file holds; UserError if it is no safetensors file, or holds other tensors than those expected, if any are."""
    try:
        tensors = load(path.read_bytes())
    except SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file ({_short(error)})") from None
    if expected and tensors.keys() != expected:
        raise UserError(f"{path}: it holds other tensors than {INDEX} says")
    return tensors


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
