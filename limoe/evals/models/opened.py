"""What every way to open a further contestant gives: a model that can be scored, and what is known of its cost."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor, nn

from limoe.data.rgb import UNDECODABLE, open_encoded, to_rgb
from limoe.errors import UserError
from limoe.evals.encoder import Preprocess, Tokenize, TwoModalities


@dataclass(frozen=True)
class Facts:
    """What the comparison says of a contestant beside its scores.

    form: what it was opened as. weights: SHA-256, of the file for a model directory of ours, else of its tensors and their names.
    flops: forward, of one pair. samples: pairs seen in training. data: hash of the prepared set it was trained on. seed: of its
    training. None: unknown.
    """

    form: str
    weights: str
    params_total: int
    params_active: int
    flops: float
    samples: float | None = None
    data: str | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Opened:
    """A model with its own tokenizer and preprocessing, as `limoe.evals.encoder.Encoder` takes them."""

    model: TwoModalities
    tokenize: Tokenize
    preprocess: Preprocess
    facts: Facts


class Foreign(nn.Module):
    """A library's model, which a kind brings into the shape that is scored."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    @property
    def logit_scale(self) -> Tensor:
        """Log of what cosines are multiplied with."""
        return cast(Tensor, self.inner.logit_scale)


class Unfetchable(UserError):
    """Weights that could not be fetched: the contestant is left out, and nothing is made up for it."""


@contextmanager
def opening(what: str) -> Iterator[None]:
    """Whatever a library raises over a model that it cannot load becomes one sentence; pickled code is named as such."""
    try:
        yield
    except (MemoryError, UserError, ModuleNotFoundError):
        raise
    except Exception as error:  # open_clip, torch and transformers raise all kinds
        reason = " ".join(str(error).split())[:300]
        if "weights_only" in reason or "Weights only load failed" in reason:
            reason = "it holds more than tensors, and pickled code is never run; save a plain state dict, or safetensors"
        raise UserError(f"{what}: cannot be opened as a model: {reason}") from None


def picture_reader(transform: Callable[[Image.Image], Tensor]) -> Preprocess:
    """`transform` (PIL RGB -> float32 (C, H, W)) on encoded bytes: before it, every contestant has the same pixels."""

    def read(image: bytes) -> Tensor:
        try:
            return transform(to_rgb(open_encoded(image)))
        except UNDECODABLE as error:
            raise UserError(f"the picture cannot be decoded: {error}") from None

    return read


def tensor_hash(model: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of the model's tensors, whatever file they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def foreign_facts(form: str, module: Any, model: TwoModalities, image_CHW: Tensor, ids_L: Tensor) -> Facts:
    """Of a model that is not ours: its FLOPs are counted, and a token meets all of its parameters. module: what holds them."""
    from limoe.evals.models.counted import pair_flops

    total = sum(parameter.numel() for parameter in module.parameters())
    return Facts(form, tensor_hash(module), total, total, pair_flops(model, image_CHW, ids_L))
