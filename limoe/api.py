"""The door for other people's code: a trained model with its preprocessing and its tokenizer, in open_clip's conventions.

>>> model, preprocess, tokenizer = limoe.load("runs/train/limoe/model")         # doctest: +SKIP
>>> images = preprocess(Image.open("cat.png"))[None]                                # doctest: +SKIP
>>> texts = tokenizer(["a cat", "a dog"])                                           # doctest: +SKIP
>>> model.encode_image(images, normalize=True) @ model.encode_text(texts, normalize=True).T   # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from limoe.data.tokenizer import Tokenizer
from limoe.data.transforms import Preprocess
from limoe.dist import pick_device
from limoe.files import read_json
from limoe.model.io import Model, load_model, read_config


@dataclass(frozen=True)
class Tokenize:
    """Captions as the model wants them: text or a list of texts -> int64 (B, length), padded with 0 at the right end."""

    tokenizer: Tokenizer
    length: int

    def __call__(self, texts: str | Sequence[str]) -> Tensor:
        """Token ids; captions that are too long are cut, and always end with end of text."""
        return self.tokenizer(texts, self.length)


class Loaded(NamedTuple):
    """What `load` returns, in the order of open_clip.create_model_from_pretrained and get_tokenizer."""

    model: Model
    preprocess: Preprocess
    tokenizer: Tokenize


def load(folder: str | Path, device: str | torch.device = "cpu") -> Loaded:
    """Open a model directory (`runs/train/CONTESTANT/model`) for inference; UserError if it is none.

    model.encode_image(images) and model.encode_text(ids), each with `normalize`, give float32 (B, V) embeddings;
    model.logit_scale.exp() is the factor on their cosines. preprocess: PIL image or encoded bytes -> float32 (3, H, W).
    """
    folder = Path(folder)
    config = read_config(folder)
    model = load_model(folder, pick_device(str(device)))
    preprocess = Preprocess.from_dict(read_json(folder / "preprocess.json"))
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    return Loaded(model, preprocess, Tokenize(tokenizer, config.tower.text_length))
