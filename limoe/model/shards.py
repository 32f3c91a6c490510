"""The files that a model's weights lie in: one, or shards and an index, named and laid out as on the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from limoe.errors import UserError
from limoe.files import read_json, sha256_file, sha256_json

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
SHARD_BYTES = 5_000_000_000  # of tensors in a file: the hub's own limit


def divide(sizes: Mapping[str, int], limit: int) -> dict[str, str]:
    """The file of each tensor, from their sizes in bytes: no file holds more than `limit`, unless it is one tensor.

    >>> divide({"a": 3, "b": 4, "c": 9}, 16)
    {'a': 'model.safetensors', 'b': 'model.safetensors', 'c': 'model.safetensors'}
    >>> divide({"a": 3, "b": 4, "c": 9}, 8)
    {'a': 'model-00001-of-00002.safetensors', 'b': 'model-00001-of-00002.safetensors', 'c': 'model-00002-of-00002.safetensors'}
    """
    shards: list[list[str]] = []
    room = 0
    for name, size in sizes.items():
        if not shards or size > room:
            shards.append([])
            room = limit
        shards[-1].append(name)
        room -= size
    if len(shards) == 1:
        return dict.fromkeys(sizes, WHOLE)
    return {
        name: f"model-{number:05}-of-{len(shards):05}.safetensors" for number, names in enumerate(shards, 1) for name in names
    }


def index(files: Mapping[str, str], sizes: Mapping[str, int]) -> dict[str, object]:
    """What model.safetensors.index.json says of tensors in such files."""
    return {"metadata": {"total_size": sum(sizes.values())}, "weight_map": dict(files)}


def weight_files(folder: Path) -> dict[str, set[str]]:
    """The files that hold the weights in `folder`, each with the tensors that the index expects in it (none without an index).

    UserError if a file is missing, or the index is none.
    """
    sharded = (folder / INDEX).is_file() and not (folder / WHOLE).is_file()
    found: dict[str, set[str]] = {} if sharded else {WHOLE: set()}
    for name, file in (_map(folder) if sharded else {}).items():
        found.setdefault(file, set()).add(name)
    for file in found:
        if not (folder / file).is_file():
            raise UserError(f"{folder / file}: no such file" + (f", though {INDEX} names it" if sharded else ""))
    return found


def weights_hash(folder: Path) -> str:
    """Hex SHA-256 of the weights in `folder`: of their file or, if there are shards, over those and their index."""
    files = weight_files(folder)
    if WHOLE in files:
        return sha256_file(folder / WHOLE)
    return sha256_json({file: sha256_file(folder / file) for file in (INDEX, *files)})


def _map(folder: Path) -> dict[str, str]:
    """The file of each tensor. Only files beside the index are meant, so no name may lead elsewhere."""
    values = read_json(folder / INDEX)
    files = values.get("weight_map") if isinstance(values, dict) else None
    if not isinstance(files, dict) or not files or not all(isinstance(f, str) and SHARD.fullmatch(f) for f in files.values()):
        raise UserError(f"{folder / INDEX}: its weight_map must give each tensor a file like model-00001-of-00002.safetensors")
    return files
