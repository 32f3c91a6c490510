"""The one row that every source yields and every reader expects."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import pyarrow as pa

SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("captions", pa.list_(pa.string()), nullable=False),
        pa.field("split_group", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=True),
        pa.field("sha256", pa.string(), nullable=False),
    ]
)
TRAIN = "train"
SELECTION_SPLITS = ("val", "val-style", "val-scenes")  # what anyone choosing a setting may look at
TEST_SPLITS = ("unseen-style", "unseen-concept", "test-scenes", "test")  # opened by `evaluate` alone


@dataclass(frozen=True)
class Record:
    """One picture with its captions.

    key: unique in the set. image: encoded bytes (PNG, JPEG, ...). width, height: px. captions: at least one, none empty.
    split_group: what must not straddle a split (a concept, a scene). label: the class name for zero-shot classification, if any.
    """

    key: str
    source: str
    split: str
    image: bytes
    width: int
    height: int
    captions: tuple[str, ...]
    split_group: str
    label: str | None = None

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of the encoded image."""
        return hashlib.sha256(self.image).hexdigest()
