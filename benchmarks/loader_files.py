"""The same pictures as the loaders want them: a prepared set, WebDataset shards, a prepared set on these, a folder a class."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from limoe.data.inplace import BASE
from limoe.data.prepared import MANIFEST, TOKENIZER, VERSION
from limoe.data.schema import SCHEMA, TRAIN
from limoe.data.tokenizer import Tokenizer
from limoe.files import write_json
from limoe.paths import Paths

SOURCE = "photos"
QUALITY = 90  # of what is encoded again
SHARDS = 8
GROUP_ROWS = 256


@dataclass(frozen=True)
class Files:
    """Where the pictures lie in their forms, all of them byte for byte the same; images: their content. staying: a prepared set
    whose pictures are those of the shards."""

    prepared: Path
    staying: Path
    shards: list[str]
    folder: Path
    images: list[bytes]


def photos(tars: Sequence[Path], count: int) -> list[bytes]:
    """The first JPEGs of WebDataset shards, from the start again if there are too few; drawn ones without shards."""
    found: list[bytes] = []
    for path in tars:
        with tarfile.open(path) as archive:
            jpegs = (archive.extractfile(member) for member in archive if member.name.endswith(".jpg"))
            found += [jpeg.read() for jpeg in jpegs if jpeg is not None]
        if len(found) >= count:
            break
    found = found or [drawn(seed) for seed in range(min(count, 64))]
    return [found[i % len(found)] for i in range(count)]


def drawn(seed: int, side: int = 128) -> bytes:
    """A JPEG with noise on coarse colours, about as many bytes as a photo of its size."""
    chance = np.random.default_rng(seed)
    coarse = Image.fromarray(chance.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    noisy = np.asarray(coarse) + chance.normal(0, 8, (side, side, 3))
    return encoded(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)))


def enlarged(image: bytes, side: int) -> bytes:
    """The picture with a shorter side of `side` px, encoded again."""
    picture = Image.open(io.BytesIO(image)).convert("RGB")
    short = min(picture.size)
    return encoded(picture.resize((picture.width * side // short, picture.height * side // short), Image.Resampling.BICUBIC))


def encoded(picture: Image.Image) -> bytes:
    """As JPEG."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def write(images: list[bytes], root: Path) -> Files:
    """Write them under `root`, which must not exist; those that repeat an earlier one with a few bytes more behind their end."""
    images = [image + b"%d" % number if image in images[:number] else image for number, image in enumerate(images)]
    folder = root / "folder"
    (folder / "one").mkdir(parents=True)
    for number, image in enumerate(images):
        (folder / "one" / f"{number:06d}.jpg").write_bytes(image)
    shards = []
    for shard in range(SHARDS):
        shards.append(str(root / f"{shard:05d}.tar"))
        with tarfile.open(shards[-1], "w") as archive:
            for number in range(shard, len(images), SHARDS):
                archive.add(folder / "one" / f"{number:06d}.jpg", f"{number:06d}.jpg")
    rows = [row(number, image) for number, image in enumerate(images)]
    prepared = prepare(pa.Table.from_pylist(rows, SCHEMA), root / "prepared", 1)
    return Files(prepared, staying(shards, rows, root), shards, folder, images)


def staying(shards: list[str], rows: list[dict[str, Any]], project: Path) -> Path:
    """The set of the same rows, tar by tar, with pictures that are read from the shards; its folder."""
    found = []
    for shard in shards:
        with tarfile.open(shard) as archive:
            for entry in archive:
                own = rows[int(Path(entry.name).stem)]
                place = {"image": None, "tar": Path(shard).name, "offset": entry.offset_data, "length": entry.size}
                found.append(own | place | {"sha256": hashlib.sha256(own["image"]).hexdigest()})
    return prepare(pa.Table.from_pylist(found, SCHEMA), Paths(project).prepared, 1, tars=".")


def row(number: int, image: bytes) -> dict[str, Any]:
    """A training row; its label says that it may be cropped, its picture counts as unlike all others."""
    name, group = f"photo {number}", str(number)
    values = {"key": f"{SOURCE}/{number}", "source": SOURCE, "split": TRAIN, "image": image, "width": 0, "height": 0}
    digest = hashlib.sha256(group.encode()).hexdigest()
    return values | {"captions": [name], "split_group": group, "label": "photo", "sha256": digest}


def prepare(table: pa.Table, root: Path, shards: int, tars: str | None = None) -> Path:
    """A prepared set of the table so many times over: one shard under many names; its folder. tars: where those begin that hold
    its pictures."""
    root.mkdir(parents=True)
    names = [f"{TRAIN}-{number:05d}.parquet" for number in range(shards)]
    pq.write_table(table, root / names[0], row_group_size=GROUP_ROWS if shards == 1 else 2000)
    for name in names[1:]:
        os.link(root / names[0], root / name)
    Tokenizer.train(["photo 0 1 2 3 4 5 6 7 8 9"], "bpe", 100).save(root / TOKENIZER)
    rows = len(table) * shards
    listed = [{"file": name, "rows": len(table), "sha256": ""} for name in names]
    splits = {TRAIN: {"rows": rows, "shards": listed, "sources": {SOURCE: rows}}}
    sources = {SOURCE: {} if tars is None else {BASE: tars}}
    write_json(root / MANIFEST, {"version": VERSION, "splits": splits, "sources": sources})
    return root


def tiny(rows: int, shards: int, root: Path) -> Path:
    """A prepared set of rows * shards rows that are all but metadata: the picture is a dot, and every shard the same."""
    dot = encoded(Image.new("RGB", (8, 8)))
    return prepare(pa.Table.from_pylist([row(number, dot) for number in range(rows)], SCHEMA), root, shards)
