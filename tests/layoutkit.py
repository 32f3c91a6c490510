"""Small test sets in every layout that people have: pictures of one colour, told apart by it."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from scipy.io import savemat

from limoe.config import EvalSetParams
from limoe.evals.external import open_set
from limoe.evals.sets import EvalSet


def picture(number: int) -> bytes:
    """A PNG whose colour is the number."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, number // 256, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def number_of(image: bytes) -> int:
    """The inverse of `picture`."""
    red, green, _ = Image.open(io.BytesIO(image)).getpixel((0, 0))
    return red + 256 * green


def put(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(number))


def folders(root: Path, classes: Sequence[str], each: int = 1) -> Path:
    """Class folders; picture n of class c is number c + n * len(classes)."""
    for place, name in enumerate(classes):
        for copy in range(each):
            put(root / name / f"{copy}.png", place + copy * len(classes))
    return root


def flat(root: Path, count: int) -> Path:
    """ImageNet's validation names, number n - 1 in picture n."""
    for number in range(1, count + 1):
        put(root / f"ILSVRC2012_val_{number:08d}.JPEG", number - 1)
    return root


def devkit(folder: Path, order: Sequence[str], truth: Sequence[int]) -> Path:
    """meta.mat, whose class numbers count `order` from 1 (with an inner node behind them), and the ground truth."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object), ("num_children", object)]
    synsets = np.zeros((len(order) + 1, 1), kinds)
    for place, wnid in enumerate([*order, "n00001740"]):
        synsets[place, 0] = (place + 1, wnid, "words", 0 if place < len(order) else 3)
    savemat(folder / "meta.mat", {"synsets": synsets})
    file = folder / "ILSVRC2012_validation_ground_truth.txt"
    file.write_text("".join(f"{number}\n" for number in truth), encoding="utf-8")
    return file


def parquet(root: Path, rows: Sequence[Mapping[str, Any]], name: str = "val-00000-of-00001", names: Sequence[str] = ()) -> Path:
    """Hugging Face's form; picture n is number n."""
    root.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([{"image": {"bytes": picture(number), "path": None}, **row} for number, row in enumerate(rows)])
    if names:
        told = {"info": {"features": {"label": {"names": list(names), "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(told)})
    pq.write_table(table, root / f"{name}.parquet", row_group_size=2)
    return root


def tar(root: Path, samples: Mapping[str, Mapping[str, bytes]], name: str = "val-00000", mode: str = "w") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    with tarfile.open(root / f"{name}.tar", mode) as archive:
        for key, parts in samples.items():
            for suffix, content in parts.items():
                entry = tarfile.TarInfo(f"{key}.{suffix}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return root


def opened(root: Path, kind: str, path: str = "set", **more: str) -> EvalSet:
    """`root/path` as the set `mine`."""
    return open_set("mine", EvalSetParams(path=path, kind=kind, **more), root)


def told(data: EvalSet) -> list[tuple[int, str | None]]:
    """Number and label of every picture, in order, read through the set."""
    return [(number_of(image), label) for image, label in zip(data.images.read(0, len(data)), data.labels, strict=True)]
