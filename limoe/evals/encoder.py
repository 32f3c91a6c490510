"""A model seen by evaluators: pictures and texts in, unit vectors out, each encoded once, however many evaluators ask; and the
features that probes learn from.

Axes: N pictures, M texts, B batch, D embedding, F features, L text length, C channels, H height, W width in px.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from limoe.data.tokenizer import fold
from limoe.errors import UserError
from limoe.evals.sets import EvalSet
from limoe.evals.store import Store
from limoe.files import sha256_json


class TwoModalities(Protocol):
    """What every contestant offers (open_clip's shape)."""

    @property
    def logit_scale(self) -> Tensor:
        """Log of what cosines are multiplied with, a scalar."""

    def encode_image(self, images_BCHW: Tensor, normalize: bool = False) -> Tensor:
        """(B, D) float32 embeddings of preprocessed pictures."""

    def image_features(self, images_BCHW: Tensor) -> Tensor:
        """(B, F) float32: what a picture's embedding is projected from, or the embedding where there is no projection."""

    def encode_text(self, ids_BL: Tensor, normalize: bool = False) -> Tensor:
        """(B, D) float32 embeddings of padded token ids."""


Tokenize = Callable[[Sequence[str]], Tensor]
Preprocess = Callable[[bytes], Tensor]
Track = Callable[[Iterable[int], str, int], Iterable[int]]


class Encoder:
    """A model with its tokenizer and preprocessing.

    tokenize: texts to int64 ids (B, L). preprocess: encoded bytes to a float32 (C, H, W) tensor. batch: pictures or texts at
    a time. track: wraps a loop (its steps, what they are, how many), for a progress bar. store: where embeddings are kept beyond
    this process, if anywhere.
    """

    def __init__(
        self,
        model: TwoModalities,
        tokenize: Tokenize,
        preprocess: Preprocess,
        batch: int,
        device: torch.device | str = "cpu",
        track: Track | None = None,
        store: Store | None = None,
    ) -> None:
        self._model, self._tokenize, self._preprocess = model, tokenize, preprocess
        self._batch, self._device, self._track, self._store = batch, torch.device(device), track, store
        self._images: dict[str, Tensor] = {}
        self._rows: dict[str, int] = {}  # of a text in self._texts_MD: a tensor a text would cost more than its numbers
        self._texts_MD = torch.empty(0)

    @property
    def scale(self) -> float:
        """What the model multiplies cosines with before a softmax: exp of its `logit_scale`."""
        return float(self._model.logit_scale.detach().exp())

    @torch.inference_mode()
    def images(self, data: EvalSet) -> Tensor:
        """float32 (N, D), unit length, in the set's order; remembered by the set's name."""
        if data.name not in self._images:
            encode = self._model.encode_image
            found_ND = self._kept("images", lambda: data.hash, lambda: F.normalize(self._encode_set(data, encode), dim=1))
            self._images[data.name] = found_ND
        return self._images[data.name]

    @torch.inference_mode()
    def features(self, data: EvalSet) -> Tensor:
        """float32 (N, F), in the set's order: what the pictures' embeddings are projected from, as it comes."""
        return self._kept("features", lambda: data.hash, lambda: self._encode_set(data, self._model.image_features))

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """float32 (M, D), unit length, in the order of `texts`; equal texts (as `fold` makes them) have the same bits."""
        wanted = [fold(text) for text in texts]
        new = [text for text in dict.fromkeys(wanted) if text not in self._rows]
        if new:
            found_MD = self._kept("texts", lambda: sha256_json(new), lambda: self._encode_texts(new))
            self._texts_MD = torch.cat([self._texts_MD, found_MD]) if self._rows else found_MD
            self._rows.update(zip(new, range(len(self._rows), len(self._texts_MD)), strict=True))
        return self._texts_MD[torch.tensor([self._rows[text] for text in wanted])]

    def _kept(self, kind: str, content: Callable[[], str], compute: Callable[[], Tensor]) -> Tensor:
        return compute() if self._store is None else self._store.get(kind, content(), compute).to(self._device)

    def tracked(self, steps: Sequence[int], what: str) -> Iterable[int]:
        """The steps of something that takes its time, behind a progress bar if there is one."""
        return steps if self._track is None else self._track(steps, what, len(steps))

    def _starts(self, count: int, what: str) -> Iterable[int]:
        return self.tracked(range(0, count, self._batch), what)

    def _encode_texts(self, texts: Sequence[str]) -> Tensor:
        pieces = [
            self._model.encode_text(self._tokenize(texts[start : start + self._batch]).to(self._device)).float()
            for start in self._starts(len(texts), "texts")
        ]
        return F.normalize(_finite(torch.cat(pieces), "texts"), dim=1)

    def _encode_set(self, data: EvalSet, encode: Callable[[Tensor], Tensor]) -> Tensor:
        starts = self._starts(len(data), f"{data.name}: pictures")
        pieces = [encode(self._decode_batch(data, start).to(self._device)).float() for start in starts]
        return _finite(torch.cat(pieces), f"pictures of {data.name}")

    def _decode_batch(self, data: EvalSet, start: int) -> Tensor:
        encoded = data.images.read(start, self._batch)
        return torch.stack([self._decode(image, data, start + row) for row, image in enumerate(encoded)])

    def _decode(self, image: bytes, data: EvalSet, row: int) -> Tensor:
        try:
            return self._preprocess(image)
        except UserError as error:
            raise UserError(f"{data.name}, {data.keys[row]}: {error}") from None


def _finite(x_ND: Tensor, what: str) -> Tensor:
    broken = int((~torch.isfinite(x_ND).all(1)).sum())
    if broken:  # every comparison with NaN is false, so that a broken model would rank first everywhere
        raise UserError(f"the model's embeddings of {broken} of {len(x_ND)} {what} are not finite: its weights are broken")
    return x_ND
