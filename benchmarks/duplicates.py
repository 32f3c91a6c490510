"""`python -m benchmarks.duplicates --photos DIR`: what the perceptual hash finds and what it confuses, the table of docs/data.md.

DIR: WebDataset tars of photos. Copies are made of a sample; pairs are counted among all pictures. With `--hashes N`, also how
long all near pairs of N random hashes take.
"""

from __future__ import annotations

import argparse
import io
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from benchmarks.harness import positive
from limoe.config import Params
from limoe.data.duplicates import PLAIN, Hashes, near_pairs, perceptual_hash
from limoe.data.rgb import to_rgb
from limoe.data.sources import Candidate, candidates
from limoe.data.sources.emoji import EmojiSource

ROOT = Path(__file__).resolve().parents[1]
RADII = (4, 6, 8)
SAMPLE = 400  # pictures that copies are made of


def saved(form: str, quality: int, picture: Image.Image) -> Image.Image:
    encoded = io.BytesIO()
    picture.save(encoded, form, quality=quality)
    return Image.open(io.BytesIO(encoded.getvalue())).convert("RGB")


def scaled(scale: float, picture: Image.Image) -> Image.Image:
    width, height = (round(scale * side) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.BICUBIC)


def lit(factor: float, picture: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(picture).enhance(factor)


COPIES: Mapping[str, Callable[[Image.Image], Image.Image]] = {
    **{f"JPEG {quality}": partial(saved, "JPEG", quality) for quality in (50, 75, 95)},
    **{f"WebP {quality}": partial(saved, "WEBP", quality) for quality in (50, 80)},
    **{f"size x {scale}": partial(scaled, scale) for scale in (0.3, 0.5, 2)},
    "size x 0.3, JPEG 50": lambda picture: saved("JPEG", 50, scaled(0.3, picture)),
    **{f"brightness x {factor}": partial(lit, factor) for factor in (0.9, 1.1)},
}


def emoji() -> Iterator[bytes]:
    source = EmojiSource(Params.load(ROOT / "params.yaml").prepare, ROOT)
    yield from (one.image for one in candidates(source) if isinstance(one, Candidate))


def photos(folder: Path) -> Iterator[bytes]:
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                if member.name.endswith(".jpg") and (handle := archive.extractfile(member)):
                    yield handle.read()


def measured(images: Iterator[bytes]) -> Iterator[str]:
    """Lines of the table: copies found and pairs, at each of RADII."""
    pictures = [to_rgb(Image.open(io.BytesIO(image))) for image in images]
    hashes = np.array([perceptual_hash(picture) for picture in pictures], np.uint64)
    yield f"{len(pictures):,} pictures, {np.mean(hashes != PLAIN):.1%} with a hash"
    sample = [row for row in range(0, len(pictures), max(1, len(pictures) // SAMPLE)) if hashes[row] != PLAIN]
    for name, change in COPIES.items():
        copies = np.array([perceptual_hash(change(pictures[row])) for row in sample], np.uint64)
        differing = np.bitwise_count(copies ^ hashes[sample])
        yield f"  {name}: " + ", ".join(f"{np.mean(differing <= radius):.1%} within {radius} bits" for radius in RADII)
    yield "  pairs: " + ", ".join(f"{pairs(hashes, radius):,} within {radius} bits" for radius in RADII)


def pairs(hashes: Hashes, radius: int) -> int:
    """Near pairs, each once."""
    return sum(int((left < right).sum()) for left, right in near_pairs(hashes, hashes, radius))


def main(arguments: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--photos", type=Path, help="folder of WebDataset tars")
    options.add_argument("--hashes", type=positive, help="random hashes to find the near pairs of")
    asked = options.parse_args(arguments)
    for images in (emoji(), *([photos(asked.photos)] if asked.photos else [])):
        for line in measured(images):
            print(line, flush=True)
    if asked.hashes:
        hashes, start = np.random.default_rng(0).integers(1, 2**64, asked.hashes, dtype=np.uint64), time.perf_counter()
        print(f"{asked.hashes:,} hashes against as many: {pairs(hashes, 6)} pairs, {time.perf_counter() - start:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
