"""What a setting is chosen by: the contrastive loss on the validation splits, cheap enough to be measured often in a training.

Which numbers may be compared: losses of models measured on the same prepared set, sources and batch, whatever they were trained
with (batch size, loss, temperature). Chance is ln(batch). It says nothing about a test set, which is never opened here.

What is measured is fixed: of each split the pictures of the sources that are trained on, in the order of the hash of their keys
(so that a part is a fair sample), the first `limit` of them, in batches; a last batch that is not full is left out, and a split
smaller than one batch is one. Sources that `train.select_without` names for a split are left out of it; a split without another
source is measured with them, and stands beside the objective. Each picture comes with its first caption. Pictures of equal
captions in one batch are each other's positives: the target is spread evenly over them, which no model can tell apart.
Embeddings are noise-free and dropless.

Axes: N pictures, U different texts, C classes, D embedding, L text length, H height, W width in px.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean

import pyarrow as pa
import pyarrow.compute as pc
import torch
import torch.nn.functional as F
from torch import Tensor

from limoe.config import SELECTION_SPLITS, TowerParams, TrainParams
from limoe.data.prepared import Prepared
from limoe.data.rgb import UNDECODABLE
from limoe.data.tokenizer import Tokenizer, fold
from limoe.data.transforms import decode_uint8, normalize
from limoe.errors import UserError
from limoe.evals.ranking import ranks, similarity
from limoe.evals.retrieval import retrieval_ranks
from limoe.losses.contrastive import softmax_contrastive
from limoe.model.io import Model

BATCH = 256
LIMIT = 1024  # pictures a split: with 1,024 of them a top-1 of 30% has a standard error of 1.4
COLUMNS = ["key", "source", "image", "captions", "label"]


@dataclass(frozen=True)
class _Split:
    """One split, decoded once. pixels_NCHW: uint8. ids_UL: the texts, captions and classes, padded. caption_N, class_C: rows of
    ids_UL. target_N: each picture's class; no classes: retrieval is scored instead. selects: whether the objective counts it."""

    pixels_NCHW: Tensor
    ids_UL: Tensor
    caption_N: Tensor
    class_C: Tensor
    target_N: Tensor
    batch: int
    selects: bool


class Validation:
    """The validation splits of a prepared set, ready to score any model of one tower's picture size and text length."""

    def __init__(
        self, prepared: Prepared, tower: TowerParams, train: TrainParams, batch: int = BATCH, limit: int = LIMIT
    ) -> None:
        """UserError if there is no validation picture of a source of train.mixture, or none that train.select_without leaves."""
        sources = [name for name, share in train.mixture.items() if share > 0]
        self._splits: dict[str, _Split] = {}
        for name in SELECTION_SPLITS:
            if name in prepared.splits:
                table = prepared.table(name, COLUMNS)
                without = [source for source, splits in train.select_without.items() if name in splits]
                table, selecting = _of(table, sources), _of(table, [source for source in sources if source not in without])
                if selects := selecting.num_rows >= 2:
                    table = selecting
                if table.num_rows >= 2:
                    self._splits[name] = _open(table, prepared.tokenizer, tower, batch, limit, selects)
        if not self._splits:
            raise UserError(
                f"{prepared.root}: no validation pictures of {', '.join(sources)}: the objective needs two at least "
                f"in one of the splits {', '.join(SELECTION_SPLITS)}"
            )
        if not any(split.selects for split in self._splits.values()):
            raise UserError(
                f"train.select_without = {train.select_without} is not allowed: of the validation pictures of "
                f"{', '.join(sources)}, which are in {', '.join(self._splits)}, it leaves none to choose settings by"
            )

    @property
    def counts(self) -> dict[str, int]:
        """How many pictures of each split are measured."""
        return {name: len(split.caption_N) for name, split in self._splits.items()}

    def run(self, model: Model, device: torch.device, precision: torch.dtype) -> dict[str, float]:
        """`loss` (the objective: the mean over the splits that select, nats), `loss/<split>`, and `top1/<split>` (zero-shot among
        all class names of the split) or, where there are none, `r1/<split>` (retrieval within the measured ones, mean of both
        directions).

        The model is left as it was. A model whose embeddings are not finite has the loss nan and the score 0 there.
        """
        found: dict[str, float] = {}
        with _evaluating(model):
            for name, split in self._splits.items():
                loss, metric, score = _score(split, *_embed(split, model, device, precision), model.logit_scale.exp())
                found |= {f"loss/{name}": loss, f"{metric}/{name}": score}
        return {"loss": fmean(found[f"loss/{name}"] for name, split in self._splits.items() if split.selects)} | found


def _of(table: pa.Table, sources: list[str]) -> pa.Table:
    return table.filter(pc.is_in(table["source"], pa.array(sources, pa.string())))


def _open(table: pa.Table, tokenizer: Tokenizer, tower: TowerParams, batch: int, limit: int, selects: bool) -> _Split:
    classes = sorted({fold(label) for label in table["label"].to_pylist() if label is not None})
    if table["label"].null_count or len(classes) < 2:
        classes = []
    rows = sorted(range(table.num_rows), key=lambda row: hashlib.sha256(table["key"][row].as_py().encode()).digest())
    kept = min(limit, len(rows))
    table = table.take(rows[: kept - kept % batch if kept > batch else kept])
    captions = [fold(texts[0]) for texts in table["captions"].to_pylist()]
    texts = {text: row for row, text in enumerate(dict.fromkeys([*captions, *classes]))}
    place = {name: number for number, name in enumerate(classes)}
    return _Split(
        pixels_NCHW=torch.stack([_decode(row, tower.image_size) for row in table.select(["key", "image"]).to_pylist()]),
        ids_UL=tokenizer(list(texts), tower.text_length),
        caption_N=torch.tensor([texts[caption] for caption in captions]),
        class_C=torch.tensor([texts[name] for name in classes], dtype=torch.int64),
        target_N=torch.tensor([place[fold(label)] for label in table["label"].to_pylist()] if classes else [], dtype=torch.int64),
        batch=batch,
        selects=selects,
    )


def _decode(row: dict[str, object], size: int) -> Tensor:
    image = row["image"]
    assert isinstance(image, bytes)
    try:
        return decode_uint8(image, size)
    except UNDECODABLE as error:
        raise UserError(f"validation picture {row['key']!r} cannot be decoded ({error}); run `limoe prepare` again") from None


@contextmanager
def _evaluating(model: Model) -> Iterator[None]:
    """Evaluation mode, no gradients, and no new graphs: blocks that training compiled run as they are written."""
    training = model.training
    compiled = any(module._compiled_call_impl is not None for module in model.modules())
    try:
        model.train(False)
        with torch.inference_mode():
            if not compiled:
                yield
            else:
                with torch.compiler.set_stance("force_eager"):
                    yield
    finally:
        model.train(training)


def _embed(split: _Split, model: Model, device: torch.device, precision: torch.dtype) -> tuple[Tensor, Tensor]:
    """(images_ND, texts_UD), float32, unit length."""
    with torch.autocast(device.type, precision, enabled=precision != torch.float32):
        texts_UD = torch.cat([model.encode_text(ids_BL.to(device)).float() for ids_BL in torch.split(split.ids_UL, split.batch)])
        pieces = [normalize(pixels.to(device).float().div_(255)) for pixels in torch.split(split.pixels_NCHW, split.batch)]
        images_ND = torch.cat([model.encode_image(images_BCHW).float() for images_BCHW in pieces])
    return F.normalize(images_ND, dim=1), F.normalize(texts_UD, dim=1)


def _score(split: _Split, images_ND: Tensor, texts_UD: Tensor, scale: Tensor) -> tuple[float, str, float]:
    """Loss, the name of the score, and the score."""
    metric = "top1" if len(split.class_C) else "r1"
    if not (torch.isfinite(images_ND).all() and torch.isfinite(texts_UD).all()):
        return float("nan"), metric, 0.0
    caption_N = split.caption_N.to(images_ND.device)
    batches = zip(torch.split(images_ND, split.batch), torch.split(caption_N, split.batch), strict=True)
    losses = [float(softmax_contrastive(images, texts_UD[caption], scale, caption)) for images, caption in batches]
    score = _top1(split, images_ND, texts_UD) if metric == "top1" else _r1(split, images_ND, texts_UD)
    return fmean(losses), metric, score


def _top1(split: _Split, images_ND: Tensor, texts_UD: Tensor) -> float:
    classes_CD = texts_UD[split.class_C.to(images_ND.device)]
    rank_N = ranks(similarity(images_ND, classes_CD), split.target_N.to(images_ND.device))
    return float((rank_N == 0).double().mean())


def _r1(split: _Split, images_ND: Tensor, texts_UD: Tensor) -> float:
    pictures_N = torch.arange(len(images_ND))
    rank_N, rank_U = retrieval_ranks(images_ND, texts_UD, pictures_N, split.caption_N, LIMIT)
    return (float((rank_N == 0).double().mean()) + float((rank_U == 0).double().mean())) / 2
