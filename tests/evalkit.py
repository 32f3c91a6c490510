"""For the tests of evals, report and their stages: a tiny model, tiny sets, and slow versions of the metrics."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor, nn

from limoe.config import Params
from limoe.data.prepared import Prepared
from limoe.data.schema import SCHEMA
from limoe.data.tokenizer import Tokenizer
from limoe.data.transforms import Preprocess
from limoe.evals.encoder import Encoder
from limoe.evals.routing.analysis import analyse
from limoe.evals.routing.pairs import selection_pairs
from limoe.evals.routing.stored import Analysis
from limoe.evals.sets import EvalSet
from limoe.files import sha256_file, write_json
from limoe.model.io import ModelConfig, build_model, save_model

PIXELS = (3, 2, 2)


class TableModel(nn.Module):
    """Looks embeddings up: picture i is the 4-byte number i, text `t7` has the id 7."""

    def __init__(self, images_ND: Tensor, texts_MD: Tensor, scale: float = 10.0) -> None:
        super().__init__()
        self.images_ND, self.texts_MD = images_ND.float(), texts_MD.float()
        self.logit_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.batches: list[int] = []

    def encode_image(self, images_BCHW: Tensor, normalize: bool = False) -> Tensor:
        self.batches.append(len(images_BCHW))
        return self.images_ND[images_BCHW[:, 0, 0, 0].long()]

    def image_features(self, images_BCHW: Tensor) -> Tensor:
        return 3 * self.encode_image(images_BCHW)

    def encode_text(self, ids_BL: Tensor, normalize: bool = False) -> Tensor:
        self.batches.append(len(ids_BL))
        return self.texts_MD[ids_BL[:, 0]]


def preprocess(image: bytes) -> Tensor:
    return torch.full(PIXELS, float(int.from_bytes(image, "big")))


def tokenize(texts: Sequence[str]) -> Tensor:
    return torch.tensor([[int(text.rsplit("t", 1)[-1])] for text in texts])


def encoder(model: TableModel, batch: int = 3) -> Encoder:
    return Encoder(model, tokenize, preprocess, batch)


def eval_set(
    captions: Sequence[Sequence[str]],
    labels: Sequence[str | None] | None = None,
    keys: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    name: str = "val",
) -> EvalSet:
    """Pictures 0, 1, ... with these captions."""
    count = len(captions)
    return EvalSet.of(
        name,
        pa.table(
            {
                "key": list(keys or [f"k{number}" for number in range(count)]),
                "image": pa.chunked_array([pa.array([number.to_bytes(4, "big") for number in range(count)], pa.binary())]),
                "captions": pa.array([list(texts) for texts in captions], pa.list_(pa.string())),
                "label": pa.array(list(labels or [None] * count), pa.string()),
                "split_group": list(groups or [f"g{number}" for number in range(count)]),
            }
        ),
    )


def unit(x_ND: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x_ND.float(), dim=1)


def slow_ranks(scores: np.ndarray, positives: Sequence[set[int]]) -> list[int]:
    """For each row: how many candidates outside its positives score at least as high (but for rounding) as the best of them."""
    found = []
    for row, mine in zip(scores, positives, strict=True):
        best = max(row[column] for column in mine)
        found.append(sum(1 for column, score in enumerate(row) if column not in mine and score >= best - 1e-6))
    return found


def prepared_rows(split: str, count: int, source: str = "emoji", labels: bool = True) -> pa.Table:
    """Rows of a prepared split; picture i is a PNG of one colour."""
    rows = []
    for number in range(count):
        buffer = BytesIO()
        Image.new("RGB", (8, 8), (number * 40 % 256, number * 90 % 256, 50)).save(buffer, "PNG")
        rows.append(
            {
                "key": f"{source}/twemoji/{0x1F600 + number:X}",
                "source": source,
                "split": split,
                "image": buffer.getvalue(),
                "width": 8,
                "height": 8,
                "captions": [f"name {number}", f"other {number}"],
                "split_group": f"{split}-{number // 2}",
                "label": f"name {number}" if labels else None,
                "sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
            }
        )
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def write_prepared(root: Path, splits: dict[str, pa.Table]) -> Path:
    """A prepared set of these splits, with a small tokenizer trained on all their captions."""
    root.mkdir(parents=True)
    texts = [text for table in splits.values() for captions in table["captions"].to_pylist() for text in captions]
    Tokenizer.train(texts, "bpe", 96).save(root / "tokenizer.json")
    manifest: dict[str, Any] = {"version": 2, "splits": {}, "tokenizer": {"sha256": sha256_file(root / "tokenizer.json")}}
    for split, table in splits.items():
        name = f"{split}-00000.parquet"
        pq.write_table(table, root / name)
        shard = {"file": name, "rows": table.num_rows, "sha256": sha256_file(root / name)}
        manifest["splits"][split] = {"rows": table.num_rows, "shards": [shard], "sources": {"emoji": table.num_rows}}
    write_json(root / "manifest.json", manifest)
    return root


def write_model(folder: Path, tokenizer: Path, params: Params, kind: str = "limoe", seed: int = 0) -> Path:
    """An untrained model directory of the tiny tower that `params` describes."""
    known = Tokenizer.load(tokenizer)
    config = ModelConfig(
        kind=kind,
        tower=params.model.tower,
        moe=params.model.moe if kind == "limoe" else None,
        clip=params.model.clip if kind == "clip" else None,
        text_width=16 if kind == "clip" else None,
        vocab_size=known.vocab_size,
        eos_id=known.eos_id,
        init_scale=10.0,
    )
    torch.manual_seed(seed)
    save_model(folder, config, build_model(config).state_dict(), tokenizer, Preprocess(params.model.tower.image_size).to_dict())
    return folder


def tiny_analysis(root: Path) -> Analysis:
    """How an untrained LIMoE of two sparse blocks routes nine pairs."""
    prepared = write_prepared(root / "data", {"val": prepared_rows("val", 9)})
    model = write_model(root / "model", prepared / "tokenizer.json", tiny_params("model.tower.depth=4"))
    return analyse(model, selection_pairs(Prepared(prepared)), 9, torch.device("cpu"))


TINY = (
    "model.tower.image_size=8",
    "model.tower.patch_size=4",
    "model.tower.text_length=8",
    "model.tower.width=16",
    "model.tower.depth=2",
    "model.tower.heads=2",
    "model.tower.embed_dim=8",
    "model.moe.experts=2",
    "evaluate.batch=4",
    "evaluate.chunk=4",
    "compare.bootstrap=1000",
    "machine.tracking=none",
    "machine.device=cpu",
)


def tiny_params(*overrides: str) -> Params:
    """params.yaml with a tower that runs in milliseconds."""
    return Params.load(Path(__file__).parents[1] / "params.yaml", (*TINY, *overrides))


def with_others(params: Params, **further: Any) -> Params:
    """The same with these compare.models and compare.fetched (and compare.tuning)."""
    values = params.model_dump()
    return Params.parse(values | {"compare": values["compare"] | further}, "test")
