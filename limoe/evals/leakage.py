"""Which pictures of an evaluation set the training has seen, or must not see: byte for byte, or nearly.

Near means what limoe.data.duplicates measures: another encoding, size or brightness of one photo, and drawings that resemble each
other. Only this project's training set is known; what else a model that was trained elsewhere has seen is not.

Axes: N pictures of a set, T training pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import PIL
import torch

from limoe.data.duplicates import PLAIN, RADIUS, Hashes, first_near, hash_encoded
from limoe.data.prepared import Prepared
from limoe.data.repeats import Evaluated
from limoe.data.rgb import UNDECODABLE
from limoe.data.schema import TRAIN
from limoe.errors import UserError
from limoe.evals.encoder import Track
from limoe.evals.pictures import PIECE, Pictures, PreparedPictures, content_hash
from limoe.evals.seen import Leakage, Seen
from limoe.evals.sets import EvalSet
from limoe.evals.store import Store
from limoe.files import sha256_json
from limoe.provenance import code_hash


class Hasher:
    """Perceptual hashes of pictures; a fraction of a millisecond each, and kept."""

    def __init__(self, kept: Path, track: Track) -> None:
        """kept: the folder of stores."""
        key = sha256_json({"code": code_hash("limoe.data.duplicates"), "pillow": PIL.__version__})[:16]
        self._store, self._track = Store(kept / key), track

    def __call__(self, pictures: Pictures, digests: Sequence[str], name: str) -> Hashes:
        """uint64 of each picture, PIECE of which are in memory. digests: what names them. UserError if one cannot be decoded."""

        def compute() -> torch.Tensor:
            starts = range(0, len(pictures), PIECE)
            tracked = self._track(starts, f"{name}: perceptual hashes", len(starts))
            hashes = [_hashed(image, digests[row], name) for start in tracked for row, image in _numbered(pictures, start)]
            return torch.from_numpy(np.array(hashes, dtype=np.uint64).view(np.int64))

        return self._store.get("hashes", content_hash(digests), compute).numpy().view(np.uint64)


def _numbered(pictures: Pictures, start: int) -> Iterable[tuple[int, bytes]]:
    return enumerate(pictures.read(start, PIECE), start)


def _hashed(image: bytes, digest: str, name: str) -> int:
    try:
        return hash_encoded(image)
    except UNDECODABLE as error:
        raise UserError(f"{name}: the picture of SHA-256 {digest[:16]}... cannot be decoded: {error}") from None


class TrainingPictures:
    """The training pictures of a prepared set, to look others up among. Memory: 100 bytes a training picture."""

    def __init__(self, prepared: Prepared, hasher: Hasher) -> None:
        self._prepared, self._hasher = prepared, hasher

    def leakage(self, data: EvalSet) -> Leakage:
        """Which of its pictures are training pictures, and how many its own probes learn from."""
        hashes_N = self._hasher(data.images, data.digests, data.name)
        near_N = first_near(hashes_N, self._hashes_T, RADIUS).tolist()
        exact_N = [self._first.get(digest, -1) for digest in data.digests]
        seen = [
            Seen(key, self._told["key"][exact if exact >= 0 else near], exact >= 0)
            for key, exact, near in zip(data.keys, exact_N, near_N, strict=True)
            if exact >= 0 or near >= 0
        ]
        return Leakage(data.name, len(data), int(np.count_nonzero(hashes_N == PLAIN)), tuple(seen), _probed(data))

    @cached_property
    def _told(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = self._prepared.table(TRAIN, ["key", "sha256"]).to_pydict()
        return found

    @cached_property
    def _first(self) -> dict[str, int]:
        """The first row of each SHA-256."""
        digests_T = self._told["sha256"]
        return dict(zip(reversed(digests_T), range(len(digests_T) - 1, -1, -1), strict=True))

    @cached_property
    def _hashes_T(self) -> Hashes:
        return self._hasher(PreparedPictures(self._prepared, TRAIN), self._told["sha256"], TRAIN)


def _probed(data: EvalSet) -> int:
    """Tested pictures that are byte for byte among those that probes learn from."""
    learnt = set() if data.train is None else set(data.train.digests)
    return sum(data.digests[row] in learnt for row in data.labelled)


def evaluated_pictures(sets: Sequence[EvalSet], hasher: Hasher | None) -> Evaluated:
    """The pictures of these sets, as what must not be trained on. hasher: None where only bytes count."""
    names = [f"{data.name}/{key}" for data in sets for key in data.keys]
    digests = [digest for data in sets for digest in data.digests]
    hashes = [hasher(data.images, data.digests, data.name) for data in sets] if hasher else []
    return Evaluated.of(names, digests, np.concatenate([np.empty(0, np.uint64), *hashes]))
