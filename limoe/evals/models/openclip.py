"""open_clip's models: by name and pretrained tag, a checkpoint of a named architecture, or a folder as open_clip saves one."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from limoe.errors import UserError
from limoe.evals.models.opened import Foreign, Opened, Unfetchable, foreign_facts, opening, picture_reader
from limoe.model.clip import unprojected

CONFIG = "open_clip_config.json"
CHECKPOINTS = (".safetensors", ".pt", ".pth", ".bin")
TAG_SAMPLES = re.compile(r"(?:^|_)s(\d+(?:\.\d+)?)([mb])(?:_|$)")  # laion2b_s34b_b79k: 34 billion pairs seen
SIZES = {"m": 1e6, "b": 1e9}


class Told(Foreign):
    """open_clip's model, which also tells what its pictures' embeddings are projected from."""

    def encode_image(self, images_BCHW: Tensor, normalize: bool = False) -> Tensor:
        """(B, D) embeddings of preprocessed pictures."""
        return cast(Tensor, self.inner.encode_image(images_BCHW, normalize=normalize))

    def encode_text(self, ids_BL: Tensor, normalize: bool = False) -> Tensor:
        """(B, D) embeddings of padded ids."""
        return cast(Tensor, self.inner.encode_text(ids_BL, normalize=normalize))

    def image_features(self, images_BCHW: Tensor) -> Tensor:
        """float32 (B, F): see `limoe.model.clip.unprojected`."""
        return unprojected(self.inner.visual, images_BCHW)


def open_folder(folder: Path, device: torch.device) -> Opened:
    """A folder with open_clip_config.json and weights; UserError without weights, for which open_clip would draw random ones."""
    name = f"local-dir:{folder}"
    with opening(str(folder)):
        return _open(name, None, f"An open_clip folder, {folder.name}", device)


def open_checkpoint(path: Path, architecture: str, device: torch.device) -> Opened:
    """A state dict (.pt, .pth, .bin; no code in it is run) or .safetensors of one of open_clip's architectures."""
    _check_architecture(architecture)
    if path.suffix not in CHECKPOINTS:
        raise UserError(f"{path}: a checkpoint of {architecture} ends in {', '.join(CHECKPOINTS)}")
    with opening(str(path)):
        return _open(architecture, str(path), f"A checkpoint of open_clip's {architecture}", device)


def open_fetched(architecture: str, tag: str, device: torch.device) -> Opened:
    """One of open_clip's pretrained models; `Unfetchable` if its weights are not here and cannot be fetched."""
    from open_clip import get_pretrained_cfg, list_pretrained_tags_by_model
    from open_clip.pretrained import download_pretrained

    _check_architecture(architecture)
    if not (known := get_pretrained_cfg(architecture, tag)):
        tags = ", ".join(list_pretrained_tags_by_model(architecture)) or "none"
        raise UserError(f"open_clip has no weights {tag!r} of {architecture}; it has {tags}")
    try:
        download_pretrained(known)
    except Exception as error:  # of urllib, of the hub's client, of whatever lies between
        reason = " ".join(str(error).split())[:200]
        raise Unfetchable(
            f"the weights {tag} of {architecture} are not on this disk and could not be fetched: {reason}"
        ) from None
    with opening(f"{architecture}, {tag}"):
        opened = _open(architecture, tag, f"open_clip's {architecture}, {tag}", device)
    return replace(opened, facts=replace(opened.facts, samples=tag_samples(tag)))


def tag_samples(tag: str) -> float | None:
    """Pairs seen in training, where open_clip's tag says it.

    >>> tag_samples("laion2b_s34b_b79k"), tag_samples("openai")
    (34000000000.0, None)
    """
    found = TAG_SAMPLES.search(tag)
    return float(found[1]) * SIZES[found[2]] if found else None


def _check_architecture(name: str) -> None:
    from open_clip import get_model_config

    if get_model_config(name) is None:
        raise UserError(
            f"{name!r} is no architecture of open_clip's (open_clip.list_models() has them); a model of your own "
            f"configuration is a folder with {CONFIG} and its weights"
        )


def _open(name: str, pretrained: str | None, form: str, device: torch.device) -> Opened:
    import open_clip

    inner: Any
    inner, _, transform = open_clip.create_model_and_transforms(
        name, pretrained=pretrained, require_pretrained=True, weights_only=True
    )
    inner.eval()
    tokenize, preprocess = open_clip.get_tokenizer(name), picture_reader(transform)
    model = Told(inner)
    blank_CHW = torch.zeros(3, *_pair(inner.visual.image_size))
    facts = foreign_facts(form, inner, model, blank_CHW, tokenize(["a caption"])[0])
    return Opened(model.to(device), lambda texts: tokenize(list(texts)), preprocess, facts)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size
