"""The door for other people's code: a trained model with its preprocessing and its tokenizer, in open_clip's conventions.

>>> model, preprocess, tokenizer = limoe.load("runs/train/limoe/model")         # doctest: +SKIP
>>> images = preprocess(Image.open("cat.png"))[None]                                # doctest: +SKIP
>>> texts = tokenizer(["a cat", "a dog"])                                           # doctest: +SKIP
>>> model.encode_image(images, normalize=True) @ model.encode_text(texts, normalize=True).T   # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from limoe.data.tokenizer import Tokenizer
from limoe.data.transforms import Preprocess
from limoe.dist import pick_device
from limoe.errors import UserError
from limoe.evals.directory import open_directory
from limoe.model.io import Model


@dataclass(frozen=True)
class Tokenize:
    """Captions as the model wants them: text or several texts -> int64 (B, length), padded with 0 at the right end."""

    tokenizer: Tokenizer
    length: int

    def __call__(self, texts: str | Iterable[str]) -> Tensor:
        """Token ids; captions that are too long are cut, and always end with end of text. UserError if one is no text."""
        listed = [texts] if isinstance(texts, str | bytes) or not isinstance(texts, Iterable) else list(texts)
        for number, text in enumerate(listed):
            if not isinstance(text, str):
                raise UserError(f"text {number} is {text!r}, which is no str: a text or a list of texts is wanted")
        return self.tokenizer(listed, self.length)


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
    config, model, preprocess, tokenizer = open_directory(Path(folder), pick_device(str(device)))
    return Loaded(model, preprocess, Tokenize(tokenizer, config.tower.text_length))
