"""Where a training starts if not from fresh weights: from those of a model directory (`train.start_from`).

A dense model starts the contestant limoe by upcycling; else a model goes on as the same kind. Weights alone are taken over: the
optimiser, the schedule and the step number begin anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from limoe.errors import UserError
from limoe.files import flatten, sha256_file, sha256_json
from limoe.model.io import Model, ModelConfig, load_model, read_config
from limoe.model.upcycle import upcycle, upcycled_config
from limoe.placement import moe_layers

BIAS = "logit_bias"  # belongs to the loss and not to the tower: a model without one may start a model with one, and the reverse


@dataclass(frozen=True)
class Start:
    """A model directory that may start the model `config`. hash: over its files; another one is another training."""

    folder: Path
    kind: str
    config: ModelConfig
    hash: str

    @classmethod
    def of(cls, folder: Path, config: ModelConfig, tokenizer: Path) -> Start:
        """UserError unless `folder` is a model directory of the same tower, experts and tokenizer (a file)."""
        content = directory_hash(folder)
        there = read_config(folder)
        if there.kind == "dense" and config.kind == "limoe":
            assert config.moe is not None
            compared = upcycled_config(there, config.moe)
        else:
            compared = there
        theirs, ours = _essentials(compared), _essentials(config)
        for name in ours | theirs:
            if theirs.get(name) != ours.get(name):
                raise UserError(
                    f"train.start_from: {folder} cannot start {config.kind}: its {name} is {theirs.get(name)}, "
                    f"and here it is {ours.get(name)}"
                )
        if not (folder / "tokenizer.json").is_file():
            raise UserError(f"train.start_from: {folder} has no tokenizer.json, and so is no whole model directory")
        if sha256_file(folder / "tokenizer.json") != sha256_file(tokenizer):
            raise UserError(
                f"train.start_from: {folder} has another tokenizer than {tokenizer.parent}: its embeddings are of other tokens"
            )
        return cls(folder, there.kind, config, content)

    def load_into(self, model: Model) -> None:
        """Give `model`, newly built from `config`, the weights of the folder."""
        fresh = model.state_dict()
        found = _with_bias_of(fresh, load_model(self.folder).state_dict())
        if self.kind == "dense" and self.config.moe is not None:
            found = upcycle(found, fresh, self.config.moe)
        model.load_state_dict(found)


def directory_hash(folder: Path) -> str:
    """Hex SHA-256 over the names and contents of the files of a model directory; UserError if it is none."""
    if not (folder / "config.json").is_file():
        raise UserError(f"train.start_from: {folder} is no model directory (it has no config.json)")
    return sha256_json({path.name: sha256_file(path) for path in sorted(folder.iterdir()) if path.is_file()})


def _essentials(config: ModelConfig) -> dict[str, Any]:
    """What must be equal, by name: shapes, and whatever would make the same weights another function."""
    values: dict[str, Any] = {"kind": config.kind, "text_width": config.text_width, "vocab_size": config.vocab_size}
    values |= flatten(config.tower.model_dump(), "tower.")
    if config.clip is not None:
        values |= flatten(config.clip.model_dump(), "clip.")
    if config.moe is not None:
        values |= {f"moe.{name}": getattr(config.moe, name) for name in ("experts", "k", "router", "renormalise")}
        if config.moe.router == "loss-free":
            values["moe.bias_scope"] = config.moe.bias_scope
        values["moe.blocks"] = moe_layers(config.tower.depth, config.moe.blocks)
    return values


def _with_bias_of(fresh: dict[str, Tensor], found: dict[str, Tensor]) -> dict[str, Tensor]:
    """`found` with a logit bias if and only if `fresh` has one: its own, or else the fresh one."""
    kept = {name: tensor for name, tensor in found.items() if name in fresh or not name.endswith(BIAS)}
    return {name: tensor for name, tensor in fresh.items() if name.endswith(BIAS)} | kept
