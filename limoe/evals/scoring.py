"""How alike a picture and its captions are for some model: what `prepare` may leave captions out by.

Axes: B pictures, M texts, P pairs of a picture and a caption of it, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from limoe.config import FetchedModel, LocalModel
from limoe.data.tokenizer import fold
from limoe.dist import pick_device, threads
from limoe.errors import UserError
from limoe.evals.models.opened import Opened
from limoe.evals.models.registry import open_other


@dataclass(frozen=True)
class OpensScorer:
    """Opens the model, in this process or another one that it is sent to.

    root: what the model's path is relative to. device: as `machine.device`. weights: their hash when this was made.
    """

    model: LocalModel | FetchedModel
    root: Path
    device: str
    weights: str

    @classmethod
    def of(cls, model: LocalModel | FetchedModel, root: Path, device: str) -> OpensScorer:
        """Opens the model once; UserError if that cannot be."""
        weights = open_other(model, root, pick_device(device)).facts.weights
        return cls(model, root.resolve(), device, weights)

    def __call__(self) -> PairScorer:
        """The scorer; UserError if the weights are others by now."""
        device = pick_device(self.device)
        opened = open_other(self.model, self.root, device)
        if opened.facts.weights != self.weights:
            raise UserError("the model of prepare.clip_score has changed while `prepare` was at work: run it again")
        return PairScorer(opened, device)


class PairScorer:
    """Cosines of pictures and captions, as evaluation computes them: on one thread, since the number changes the bits."""

    def __init__(self, opened: Opened, device: torch.device) -> None:
        self._opened, self._device = opened, device

    @threads(1)
    @torch.inference_mode()
    def __call__(self, images: Sequence[bytes], captions: Sequence[Sequence[str]]) -> list[list[float]]:
        """Of each encoded picture and each of its captions, -1..1; UserError if an embedding is not finite."""
        model, texts = self._opened.model, list(dict.fromkeys(fold(text) for own in captions for text in own))
        images_BCHW = torch.stack([self._opened.preprocess(image) for image in images]).to(self._device)
        images_BD = F.normalize(model.encode_image(images_BCHW).float(), dim=1)
        texts_MD = F.normalize(model.encode_text(self._opened.tokenize(texts).to(self._device)).float(), dim=1)
        row = {text: number for number, text in enumerate(texts)}
        picture_P = [number for number, own in enumerate(captions) for _ in own]
        text_P = [row[fold(text)] for own in captions for text in own]
        cosine_P = (images_BD[picture_P] * texts_MD[text_P]).sum(1)
        if not cosine_P.isfinite().all():
            raise UserError("the model of prepare.clip_score gives embeddings that are not finite: its weights are broken")
        found = iter(cosine_P.tolist())
        return [[next(found) for _ in own] for own in captions]
