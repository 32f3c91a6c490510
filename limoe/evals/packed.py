"""Many pictures in few files: Hugging Face's Parquet, and WebDataset tars."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from limoe.data.formats.folders import SUFFIXES
from limoe.data.formats.samples import CAPTIONS, READERS, key_and_suffix, label_names, spoken
from limoe.errors import UserError
from limoe.evals.layouts import Layout, name_below, shards
from limoe.evals.pictures import Member, ParquetColumn, TarMembers


def parquet(root: Path, split: str | None) -> Layout:
    """Hugging Face's form: a column `image` (bytes, or a struct that has them), `label` (number or text), `captions` or `caption`
    (texts). UserError if a column is not of this form, or a label is missing or -1."""
    files = shards(root, ".parquet", split)
    try:
        schema = pq.read_schema(files[0])
        table = pa.concat_tables([pq.read_table(file, columns=[*_columns(files[0], schema)]) for file in files])
        pictures = ParquetColumn(files, _image_column(files[0], schema))
    except (pa.ArrowException, KeyError) as error:
        raise UserError(f"{root}: not Parquet files of one form ({' '.join(str(error).split())})") from None
    keys = tuple(f"{name_below(root, file)}:{row}" for file in files for row in range(pq.read_metadata(file).num_rows))
    labels: tuple[str | None, ...] = (None,) * len(keys)
    if "label" in table.column_names:
        labels = tuple(None if label is None else str(label) for label in table["label"].to_pylist())
        if unlabelled := [key for key, label in zip(keys, labels, strict=True) if label in (None, "-1")]:
            raise UserError(f"{root}: {unlabelled[0]} has no label (null or -1), as in a test split whose labels are kept secret")
    captions = next((table[name].to_pylist() for name in CAPTIONS if name in table.column_names), [()] * len(keys))
    return Layout(root, keys, pictures, labels, tuple(map(spoken, captions)), label_names(schema, "label"))


def webdataset(root: Path, split: str | None) -> Layout:
    """Uncompressed tars of samples `KEY.jpg` with `KEY.cls` (number or text), `KEY.txt` (a caption) or `KEY.json` (`label`,
    `captions` or `caption`). UserError if a tar is none, or a sample has no picture."""
    samples: dict[str, dict[str, Any]] = {}
    for tar in shards(root, ".tar", split):
        for key, part in _samples(tar).items():
            if key in samples:
                raise UserError(f"{tar}: the sample {key!r} is in an earlier tar too; keys must differ")
            if "picture" not in part:
                raise UserError(f"{tar}: the sample {key!r} has no picture; allowed suffixes are {', '.join(SUFFIXES)}")
            samples[key] = part
    if not samples:
        raise UserError(f"{root}: the tars hold no samples")
    labelled = [key for key, part in samples.items() if "label" in part]
    if labelled and len(labelled) < len(samples):
        raise UserError(f"{root}: the sample {next(key for key in samples if key not in labelled)!r} has no label, others have")
    parts = samples.values()
    pictures = TarMembers([part["picture"] for part in parts])
    captions = tuple(spoken(part.get("captions")) for part in parts)
    labels = tuple(str(part["label"]) if "label" in part else None for part in parts)
    return Layout(root, tuple(samples), pictures, labels, captions)


def _columns(file: Path, schema: pa.Schema) -> list[str]:
    found = [name for name in ("label", *CAPTIONS) if name in schema.names]
    if not found:
        raise UserError(f"{file}: neither a column label nor captions; its columns are {', '.join(schema.names)}")
    return found


def _image_column(file: Path, schema: pa.Schema) -> str:
    kind = schema.field("image").type if "image" in schema.names else pa.null()
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return "image.bytes"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return "image"
    raise UserError(f"{file}: needs a column image of encoded bytes; its columns are {', '.join(schema.names)}")


def _samples(tar: Path) -> dict[str, dict[str, Any]]:
    """By key (the path up to the first dot of the file's name): `picture`, and `label` and `captions` if there are any."""
    found: dict[str, dict[str, Any]] = {}
    try:
        with tarfile.open(tar, "r:") as archive:
            for entry in filter(tarfile.TarInfo.isfile, archive):
                key, suffix = key_and_suffix(entry.name)
                sample = found.setdefault(key, {})
                if f".{suffix}" in SUFFIXES:
                    sample["picture"] = Member(tar, entry.offset_data, entry.size)
                elif suffix in READERS:
                    content = archive.extractfile(entry)
                    assert content is not None  # a file has content
                    sample[suffix] = READERS[suffix](content.read().decode("utf-8"))
    except (tarfile.TarError, OSError, ValueError) as error:
        raise UserError(f"{tar}: not an uncompressed tar of samples ({error})") from None
    for sample in found.values():
        for suffix in READERS:  # in this order, whatever the tar's is
            sample |= sample.pop(suffix, {})
    return found
