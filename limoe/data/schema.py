"""The one row that every source yields and every reader expects."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("image", pa.binary(), nullable=True),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("captions", pa.list_(pa.string()), nullable=False),
        pa.field("split_group", pa.string(), nullable=False),
        pa.field("label", pa.string(), nullable=True),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("tar", pa.string(), nullable=True),
        pa.field("offset", pa.int64(), nullable=True),
        pa.field("length", pa.int64(), nullable=True),
    ]
)
PLACE = ("tar", "offset", "length")  # columns of rows whose picture is null; else these are
TRAIN = "train"
TEST_SPLITS = ("unseen-style", "unseen-concept", "test-scenes", "test")  # opened by `evaluate` alone


@dataclass(frozen=True)
class InTar:
    """Where a picture lies that stays there. tar: as its source names it. offset, length: bytes, of the picture itself."""

    tar: str
    offset: int
    length: int


@dataclass(frozen=True)
class Bond:
    """What must lie in one split with a row. group: as its source names it; None: rows whose pictures are equal, byte for byte.
    named: whether the source names the row's split; else a hash has chosen it, and what another row of the group names counts."""

    group: str | None
    named: bool


@dataclass(frozen=True)
class Record:
    """One picture with its captions.

    key: unique in the set. image: encoded bytes (PNG, JPEG, ...). width, height: px. captions: at least one, none empty.
    split_group: what must not straddle a split (a concept, a scene). label: the class name for zero-shot classification, if any.
    stays: where the picture is trained on from, if no copy of it is to be written. bond: None where the source answers for all of
    its splits, in which a group may lie in two.
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
    stays: InTar | None = None
    bond: Bond | None = None

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of the encoded image."""
        return hashlib.sha256(self.image).hexdigest()

    def row(self) -> dict[str, Any]:
        """Its values by the names of SCHEMA: a picture that stays where it lies is null, and one that is here has no place."""
        values = {name: getattr(self, name) for name in SCHEMA.names if name not in PLACE}
        return values if self.stays is None else values | {"image": None} | asdict(self.stays)
