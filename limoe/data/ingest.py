"""Candidates in, a prepared set out: every input is checked, and what fails is written down with its reason.

Memory does not grow with the pictures, and two runs over the same candidates write the same bytes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from limoe import files
from limoe.config import PrepareParams
from limoe.data.prepared import MANIFEST, REJECTED, TOKENIZER, VERSION
from limoe.data.schema import TRAIN, Record
from limoe.data.shards import ShardWriter, write_rejected
from limoe.data.sources import Candidate, Rejected, Source, candidates
from limoe.data.tokenizer import Tokenizer
from limoe.data.verify import BadImage, measure
from limoe.errors import UserError


def ingest(sources: Mapping[str, Source], packages: Mapping[str, Any], params: PrepareParams, out: Path) -> dict[str, Any]:
    """Write shards, rejected rows, tokenizer and, last, the manifest into the folder `out`; returns the manifest.

    packages: what sources.check_sources found. UserError if no training row is left, with the commonest reason.
    """
    gate, writer = Gate(params.max_pixels), ShardWriter(out, params.shard_rows)
    for name, source in sources.items():
        for record in gate.admit(_shown(name, source)):
            writer.add(record)
    splits = writer.close()
    if TRAIN not in splits:
        raise UserError(f"nothing is left to train on: {gate.explain()}")
    write_rejected(gate.rejected, out / REJECTED)
    captions = chain.from_iterable(_column(out, splits[TRAIN], "captions"))
    tokenizer = Tokenizer.train(captions, params.tokenizer.kind, params.tokenizer.vocab_size)
    tokenizer.save(out / TOKENIZER)
    manifest = {
        "version": VERSION,
        "splits": splits,
        "leakage": leakage(out, splits),
        "rejected": dict(Counter(row.reason for row in gate.rejected)),
        "tokenizer": {
            "kind": params.tokenizer.kind,
            "vocab_size": tokenizer.vocab_size,
            "sha256": files.sha256_file(out / TOKENIZER),
        },
        "sources": {
            name: {
                **gate.content(name),
                **source.provenance(),
                "packages": {used.distribution: packages[used.distribution] for used in source.packages(params)},
            }
            for name, source in sources.items()
        },
        "params": params.model_dump(mode="json"),
    }
    files.write_json(out / MANIFEST, manifest)
    return manifest


def leakage(out: Path, splits: Mapping[str, Any]) -> dict[str, int]:
    """For each split but the training one, its rows whose picture is a training picture, byte for byte.

    out: the folder of the shards. splits: as ShardWriter.close returns them, with training rows.
    """
    training = set(_column(out, splits[TRAIN], "sha256"))
    others = (name for name in splits if name != TRAIN)
    return {name: sum(picture in training for picture in _column(out, splits[name], "sha256")) for name in others}


class Gate:
    """Lets good candidates through as records, and keeps a row about every other one."""

    def __init__(self, max_pixels: int) -> None:
        """Pictures of more than `max_pixels` are refused before they are decoded."""
        self._max_pixels = max_pixels
        self._keys: set[str] = set()
        self._contents: dict[str, Any] = {}
        self._admitted: Counter[str] = Counter()
        self.rejected: list[Rejected] = []

    def admit(self, candidates: Iterable[Candidate | Rejected]) -> Iterator[Record]:
        """The records among `candidates`; the rest goes to `rejected`."""
        for candidate in candidates:
            found = candidate if isinstance(candidate, Rejected) else self._check(candidate)
            if isinstance(found, Rejected):
                self.rejected.append(found)
                continue
            self._keys.add(found.key)
            self._admitted[found.source] += 1
            content = self._contents.setdefault(found.source, hashlib.sha256())
            content.update(repr((found.key, found.split, found.sha256, found.captions)).encode())
            yield found

    def content(self, source: str) -> dict[str, Any]:
        """What this source brought: number of rows, and SHA-256 over their keys, splits, pictures and captions."""
        return {"rows": self._admitted[source], "sha256": self._contents.get(source, hashlib.sha256()).hexdigest()}

    def explain(self) -> str:
        """Why there is not more: the number of rejected inputs and their commonest reason, with its first example."""
        if not self.rejected:
            return "the sources in prepare.sources yield no training rows"
        reason, count = Counter(row.reason for row in self.rejected).most_common(1)[0]
        first = next(row for row in self.rejected if row.reason == reason)
        return f"{len(self.rejected)} inputs were rejected, {count} of them as {reason} (first {first.key}: {first.detail})"

    def _check(self, candidate: Candidate) -> Record | Rejected:
        key, source = candidate.key, candidate.source
        if key in self._keys:
            return Rejected(key, source, "duplicate-key", "an earlier row has this key")
        if not candidate.captions or not all(caption.strip() for caption in candidate.captions):
            return Rejected(key, source, "empty-caption", "no caption, or one of white space alone")
        try:
            width, height = candidate.size or measure(candidate.image, self._max_pixels)
        except BadImage as error:
            return Rejected(key, source, error.reason, error.detail)
        values = {field.name: getattr(candidate, field.name) for field in fields(candidate) if field.name != "size"}
        return Record(**values, width=width, height=height)


def _shown(name: str, source: Source) -> Iterator[Candidate | Rejected]:
    """The source's candidates, with a progress bar."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return iter(track(candidates(source), f"{name:>8}", total=source.total, console=console, transient=True))


def _column(out: Path, split: Mapping[str, Any], name: str) -> Iterator[Any]:
    """One column of a split, shard by shard."""
    for shard in split["shards"]:
        yield from pq.read_table(out / shard["file"], columns=[name], partitioning=None)[name].to_pylist()
