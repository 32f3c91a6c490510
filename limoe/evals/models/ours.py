"""A model directory of ours from elsewhere: another seed, another machine, another prepared set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from limoe.evals.directory import open_directory
from limoe.evals.models.opened import Facts, Opened
from limoe.files import read_json
from limoe.model.clip import Clip
from limoe.model.flops import active_parameters, clip_flops, total_parameters, tower_flops
from limoe.model.io import Model, ModelConfig
from limoe.model.shards import weights_hash


def open_ours(folder: Path, training: Path | None, device: torch.device) -> Opened:
    """Any model directory. training: the folder that its training left (runs/train/NAME), which says what it cost, or None."""
    config, model, preprocess, tokenizer = open_directory(folder, device)
    length = config.tower.text_length
    return Opened(model, lambda texts: tokenizer(list(texts), length), preprocess, _facts(folder, training, model, config))


def _facts(folder: Path, training: Path | None, model: Model, config: ModelConfig) -> Facts:
    cost: dict[str, Any] = read_json(training / "cost.json") if training else {}
    settings: dict[str, Any] = read_json(training / "params.json") if training else {}
    return Facts(
        form=f"A model directory of ours, kind {config.kind}",
        weights=weights_hash(folder),
        params_total=total_parameters(model),
        params_active=active_parameters(model, config.moe.k if config.moe else 1),
        flops=cost.get("flops_per_pair_forward") or _flops(model, config),
        samples=cost.get("samples_seen"),
        data=settings.get("data"),
        seed=settings.get("train", {}).get("seed"),
    )


def _flops(model: Model, config: ModelConfig) -> float:
    """With captions as long as the tower allows, as `limoe info` counts."""
    if isinstance(model, Clip):
        assert config.clip is not None
        assert config.text_width is not None
        return clip_flops(config.tower, config.text_width, config.clip.text_depth)
    return tower_flops(config.tower, [config.tower.text_length], config.moe)
