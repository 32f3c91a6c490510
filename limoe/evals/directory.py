"""A model directory opened whole: whatever is to encode pictures and texts needs all of its files, and they belong together."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from limoe.data.prepared import TOKENIZER
from limoe.data.tokenizer import Tokenizer
from limoe.data.transforms import Preprocess
from limoe.errors import UserError
from limoe.model.io import Model, ModelConfig, load_model, read_config

CONFIG, PREPROCESS = "config.json", "preprocess.json"


class Directory(NamedTuple):
    """What is in it; the model in evaluation mode."""

    config: ModelConfig
    model: Model
    preprocess: Preprocess
    tokenizer: Tokenizer


def open_directory(folder: Path, device: torch.device) -> Directory:
    """UserError that names a file of `folder` if it is missing or broken, or of another model than config.json describes."""
    config, model = read_config(folder), load_model(folder, device)
    preprocess, tokenizer = Preprocess.load(folder / PREPROCESS), Tokenizer.load(folder / TOKENIZER)
    if (size := preprocess.image_size) != config.tower.image_size:
        raise UserError(f"{folder / PREPROCESS}: its image_size is {size}, and {CONFIG}'s {config.tower.image_size}")
    if (entries := tokenizer.vocab_size) != config.vocab_size:
        raise UserError(f"{folder / TOKENIZER}: it has {entries} entries, and {CONFIG}'s vocab_size is {config.vocab_size}")
    return Directory(config, model, preprocess, tokenizer)
