"""Where each stage's files lie, and the name of a piece of work."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from limoe.files import sha256_json


def fingerprint(**parts: Any) -> str:
    """Sixteen hex digits that name a piece of work: changed params, data or code give another name."""
    plain = {key: value.model_dump(mode="json") if isinstance(value, BaseModel) else value for key, value in parts.items()}
    return sha256_json(plain)[:16]


def project_of(prepared: Path) -> Path:
    """The root whose `Paths.prepared` this folder is; a link to it elsewhere is not followed."""
    return Path(os.path.abspath(prepared)).parents[1]


@dataclass(frozen=True)
class Paths:
    """Where each stage reads and writes, under one root (the folder of params.yaml)."""

    root: Path = Path()

    @property
    def sources(self) -> Path:
        """The packaged sources' versions and content hashes."""
        return self.root / "data" / "sources.yaml"

    @property
    def prepared(self) -> Path:
        """Out of `prepare`: shards, tokenizer, manifest, rejected rows."""
        return self.root / "data" / "prepared"

    @property
    def balance(self) -> Path:
        """Out of `balance`: balance.json and plots."""
        return self.root / "runs" / "balance"

    def train(self, contestant: str) -> Path:
        """Out of `train`: params, metrics, routing and model/."""
        return self.root / "runs" / "train" / contestant

    def model(self, contestant: str) -> Path:
        """The model directory that `train` leaves."""
        return self.train(contestant) / "model"

    def averaged(self, contestant: str) -> Path:
        """The model directory of averaged weights that `train` leaves beside it with `train.ema`, and only then."""
        return self.train(contestant) / "ema"

    def evaluate(self, contestant: str) -> Path:
        """Out of `evaluate`: metrics and per-item scores."""
        return self.root / "runs" / "evaluate" / contestant

    def evaluate_averaged(self, contestant: str) -> Path:
        """In `evaluate`'s out, the same of the averaged weights, if there are any."""
        return self.evaluate(contestant) / "ema"

    @property
    def report(self) -> Path:
        """Out of `compare`."""
        return self.root / "report"

    def sweep(self, name: str) -> Path:
        """A sweep's settings, study, trials, table and report."""
        return self.root / "runs" / "sweeps" / name

    def work(self, name: str) -> Path:
        """Resumable state of the piece of work with this fingerprint; outside every out."""
        return self.root / ".limoe" / "work" / name

    @property
    def embeddings(self) -> Path:
        """Embeddings that `evaluate` keeps, by model; it may be deleted at any time."""
        return self.work("embeddings")

    def timing(self, stage: str) -> Path:
        """Wall-clock figures, peak memory and run ids of the last run of a stage; no stage depends on it."""
        return self.root / ".limoe" / "timing" / f"{stage}.json"

    def error(self, stage: str) -> Path:
        """What a failed stage leaves for whoever started it: kind and sentence."""
        return self.root / ".limoe" / "errors" / f"{stage}.json"
