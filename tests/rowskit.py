"""Training rows without files: captions and pictures by number, cut into row groups."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from limoe.data.order import Order
from limoe.data.rowgroups import COLUMNS, RowGroup, SourceRows
from limoe.data.schema import SCHEMA

POOL = ThreadPoolExecutor(1, "rowskit")


def source_rows(
    name: str,
    captions: Sequence[Sequence[str]],
    pictures: Sequence[int] | None = None,
    seed: int = 0,
    group: int = 5,
    window: int = 1000,
) -> SourceRows:
    """Rows with these captions, each with a picture of its own unless `pictures` says which it has; `group` rows a row group."""
    images = [f"{name}{i}".encode() for i in pictures or range(len(captions))]
    columns = {
        "key": [f"{name}/{i}" for i in range(len(captions))],
        "source": [name] * len(captions),
        "image": images,
        "captions": captions,
        "label": [None] * len(captions),
        "sha256": [hashlib.sha256(image).hexdigest() for image in images],
    }
    table = pa.table(columns, schema=pa.schema([SCHEMA.field(column) for column in COLUMNS]))
    parts = [table.slice(start, group) for start in range(0, len(table), group)]
    order = Order([len(part) for part in parts], window, seed, name)
    return SourceRows(name, order, lambda number: RowGroup(parts[number]), POOL)
