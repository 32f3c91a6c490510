"""A tiny prepared set, written without limoe's own writer; and a Dask cluster."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from preparekit import cluster

from limoe.data.schema import SCHEMA
from limoe.data.tokenizer import Tokenizer


def png(seed: int, width: int = 20, height: int = 20) -> bytes:
    """A smooth random RGB picture as PNG."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def row(source: str, number: int, captions: Sequence[str], **changes: Any) -> dict[str, Any]:
    """A row of the prepared set with its own picture; `changes` replace its columns."""
    image = changes.pop("image", None) or png(number)
    values = {
        "key": f"{source}/{number}",
        "source": source,
        "split": "train",
        "image": image,
        "width": 20,
        "height": 20,
        "captions": list(captions),
        "split_group": f"{source}/{number}",
        "label": None,
        "sha256": hashlib.sha256(image).hexdigest(),
    }
    return values | changes


@pytest.fixture
def make_prepared(tmp_path: Path) -> Callable[..., Path]:
    """Write rows (see `row`) as a prepared set and return its folder."""

    def write(rows: Sequence[dict[str, Any]], shard_rows: int = 7) -> Path:
        root = tmp_path / "prepared"
        root.mkdir()
        splits: dict[str, Any] = {}
        for split in sorted({r["split"] for r in rows}):
            mine = [r for r in rows if r["split"] == split]
            shards = []
            for number, start in enumerate(range(0, len(mine), shard_rows)):
                name = f"{split}-{number:05d}.parquet"
                part = mine[start : start + shard_rows]
                pq.write_table(pa.Table.from_pylist(part, SCHEMA), root / name)
                shards.append({"file": name, "rows": len(part), "sha256": ""})
            sources = {s: sum(r["source"] == s for r in mine) for s in sorted({r["source"] for r in mine})}
            splits[split] = {"rows": len(mine), "shards": shards, "sources": sources}
        captions = [caption for r in rows if r["split"] == "train" for caption in r["captions"]]
        Tokenizer.train(captions, "bpe", 200).save(root / "tokenizer.json")
        (root / "manifest.json").write_text(json.dumps({"version": 2, "splits": splits}))
        return root

    return write


@pytest.fixture
def make_row() -> Callable[..., dict[str, Any]]:
    """See `row`."""
    return row


@pytest.fixture(scope="session")
def dask() -> Iterator[str]:
    """The address of a scheduler with two worker processes."""
    with cluster() as address:
        yield address
