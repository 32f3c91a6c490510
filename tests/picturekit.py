"""Pictures for tests, and their files."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image


def photo(seed: int, width: int = 160, height: int = 120) -> Image.Image:
    """A picture as photos are: the larger a pattern, the stronger."""
    random = np.random.default_rng(seed)
    octaves = [
        Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8)).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        for side in (3, 6, 12, 24)
    ]
    weights = (0.4, 0.3, 0.2, 0.1)
    mixed = sum(weight * np.asarray(octave, dtype=np.float64) for weight, octave in zip(weights, octaves, strict=True))
    return Image.fromarray(np.asarray(mixed, dtype=np.uint8))


def picture(width: int, height: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """A smooth random picture."""
    channels = len(mode)
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, channels), dtype=np.uint8)
    bands = [Image.fromarray(coarse[..., c]).resize((width, height), Image.Resampling.BICUBIC) for c in range(channels)]
    return bands[0] if channels == 1 else Image.merge(mode, bands)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
