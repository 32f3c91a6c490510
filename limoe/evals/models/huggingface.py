"""A CLIP or SigLIP folder as Hugging Face's transformers saves one: config.json, model.safetensors, tokenizer, preprocessor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from limoe.errors import UserError
from limoe.evals.models.opened import Foreign, Opened, foreign_facts, opening, picture_reader

TYPES = ("clip", "siglip")


class TwoTowers(Foreign):
    """transformers' CLIPModel or SiglipModel in open_clip's shape."""

    def encode_image(self, images_BCHW: Tensor, normalize: bool = False) -> Tensor:
        """float32 (B, D) embeddings of preprocessed pictures."""
        return _embedding(self.inner.get_image_features(pixel_values=images_BCHW), normalize)

    def image_features(self, images_BCHW: Tensor) -> Tensor:
        """float32 (B, F): what CLIP's embedding is projected from; SigLIP's is itself what its tower pools."""
        return cast(Tensor, self.inner.vision_model(pixel_values=images_BCHW).pooler_output).float()

    def encode_text(self, ids_BL: Tensor, normalize: bool = False) -> Tensor:
        """float32 (B, D) embeddings of ids that are padded to the model's length, as it was trained."""
        return _embedding(self.inner.get_text_features(input_ids=ids_BL), normalize)


def open_transformers(folder: Path, kind: object, device: torch.device) -> Opened:
    """The folder's model, from safetensors alone; UserError for another kind of model, or where transformers is not installed."""
    if kind not in TYPES:
        raise UserError(
            f"{folder}: model_type in its config.json is {kind!r}; of transformers' models {' and '.join(TYPES)} are read"
        )
    try:
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
    except ModuleNotFoundError:
        raise UserError(
            f"{folder}: a folder of transformers' needs that package, which is not installed: pip install -c constraints.txt "
            "-e '.[bench]'"
        ) from None
    with opening(str(folder)):
        inner = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    length = inner.config.text_config.max_position_embeddings

    def tokenize(texts: Sequence[str]) -> Tensor:
        found = tokenizer(list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        return cast(Tensor, found["input_ids"])

    size = inner.config.vision_config.image_size
    model = TwoTowers(inner)
    facts = foreign_facts(
        f"A transformers folder, {folder.name}", inner, model, torch.zeros(3, size, size), tokenize(["a caption"])[0]
    )
    read = picture_reader(lambda picture: cast(Tensor, processor(picture, return_tensors="pt")["pixel_values"][0]))
    return Opened(model.to(device), tokenize, read, facts)


def _embedding(found: Any, normalize: bool) -> Tensor:
    embedding_BD = cast(Tensor, found if isinstance(found, Tensor) else found.pooler_output).float()
    return F.normalize(embedding_BD, dim=-1) if normalize else embedding_BD
