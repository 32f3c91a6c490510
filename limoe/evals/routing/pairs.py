"""Pairs to look at: pictures and captions of anybody's, or what a prepared set holds for choosing settings."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from limoe.config import SELECTION_SPLITS
from limoe.data.formats.folders import SUFFIXES
from limoe.data.prepared import Prepared
from limoe.errors import UserError
from limoe.evals.captioned import flickr
from limoe.evals.layouts import Layout, holds
from limoe.evals.packed import parquet, webdataset
from limoe.evals.sets import COLUMNS, EvalSet


def open_pairs(images: Path, captions: Path | None, split: str | None) -> EvalSet:
    """A folder of pictures and a captions' file, or Parquet files or tars that hold both. UserError if either is missing.

    captions: any form that evaluation reads (docs/evaluation.md); by default one of the usual names below `images`.
    """
    layout = _open(images, captions, split)
    return EvalSet(images.name, layout.keys, layout.pictures, layout.captions, layout.labels, layout.keys)


def _open(images: Path, captions: Path | None, split: str | None) -> Layout:
    if not images.exists():
        raise UserError(f"{images}: no such file or folder")
    packed = next((suffix for suffix in (".parquet", ".tar") if holds(images, suffix)), None)
    if packed is not None and captions is not None:
        raise UserError(f"{captions}: {images} brings its own captions, being of *{packed}; leave --captions out")
    if packed is not None:
        return (parquet if packed == ".parquet" else webdataset)(images, split)
    if not any(path.suffix.lower() in SUFFIXES for path in images.rglob("*")):
        raise UserError(f"{images}: no pictures here; allowed suffixes are {', '.join(SUFFIXES)}, .parquet and .tar")
    if captions is not None and not captions.is_file():
        raise UserError(f"{captions}: no such file; --captions names the captions of the pictures")
    return flickr(images, captions, split)


def selection_pairs(prepared: Prepared, split: str | None = None) -> EvalSet:
    """One split of the prepared set; by default all that settings are chosen on together, as training mixes them.

    UserError if there is none.
    """
    known = [name for name in SELECTION_SPLITS if name in prepared.splits] if split is None else [split]
    if not known:
        raise UserError(f"{prepared.root}: no validation split ({', '.join(SELECTION_SPLITS)}); name another with --split")
    return EvalSet.of(", ".join(known), pa.concat_tables([prepared.table(name, COLUMNS) for name in known]))
