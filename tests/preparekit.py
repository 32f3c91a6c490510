"""For the tests of sources, ingest and prepare: params with a few changes, pictures, and a source made of a list."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from limoe.config import Params
from limoe.data.sources import Candidate, Part, Rejected

ROOT = Path(__file__).resolve().parents[1]


def params_with(*overrides: str) -> Params:
    """The checkout's params.yaml with overrides such as "prepare.seed=1"."""
    return Params.load(ROOT / "params.yaml", overrides)


def picture(seed: int = 0, width: int = 20, height: int = 16, fmt: str = "PNG") -> bytes:
    """Noise, encoded."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, fmt)
    return encoded.getvalue()


def candidate(key: str, image: bytes | None = None, **changes: Any) -> Candidate:
    """A good candidate of the split `train`, with changes."""
    values: dict[str, Any] = {
        "key": key,
        "source": "listed",
        "split": "train",
        "image": picture() if image is None else image,
        "captions": (f"caption of {key}",),
        "split_group": key,
    }
    return Candidate(**(values | changes))


class ListedSource:
    """A source that yields what it is given."""

    def __init__(self, items: Iterable[Candidate | Rejected]) -> None:
        self._items = list(items)
        self.total = len(self._items)
        self.parts = Part.split("items", len(self._items), 3)

    @classmethod
    def packages(cls, params: Any) -> tuple[()]:
        return ()

    def candidates(self, part: Part) -> Iterator[Candidate | Rejected]:
        yield from self._items[part.start : part.stop]

    def provenance(self) -> dict[str, Any]:
        return {"listed": self.total}
