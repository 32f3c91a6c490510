"""Trials of a second or two: a tiny prepared set, parameters to go with it, and trials made of them.

The set is built once a session, for any test that asks for `tiny_data`: tests/sweep/conftest.py makes that known, and elsewhere a
conftest.py like it does.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from trainkit import prepare_shapes, recipe

from limoe.config import Contestant, Params
from limoe.sweep.trial import TrialSpec, create, read_outcome, read_reports
from limoe.train.start import directory_hash

OVERRIDES = ("train.checkpoints.every=4", "train.log_every=2", "train.steps=12", "machine.device=cpu", "machine.workers=0")


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a prepared set: 64 scenes to train on, 8 in val-scenes, 8 in test-scenes. Not to be changed: copy it."""
    return prepare_shapes(tmp_path_factory.mktemp("tiny")).prepared


def tiny(*overrides: str) -> Params:
    """12 steps of 16 pairs, a row of metrics every 2 and a checkpoint every 4; one thread; about 0.3 s after 4 s of imports."""
    return recipe(*OVERRIDES, *overrides)


def spec(
    *overrides: str, contestant: Contestant = "limoe", seed: int = 0, reports: int = 3, values: dict[str, Any] | None = None
) -> TrialSpec:
    """A trial of `tiny(*overrides)`."""
    params = tiny(f"train.seed={seed}", *overrides).model_dump(mode="json")
    return TrialSpec(contestant=contestant, values=values or {}, seed=seed, params=params, reports=reports)


def trial(folder: Path, *overrides: str, **changes: Any) -> Path:
    """Make the directory of such a trial; returns it."""
    create(folder, spec(*overrides, **changes))
    return folder


def start(folder: Path, weights: str = "weights") -> str:
    """What to a study is a model directory; returns its hash."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text(weights)
    return directory_hash(folder)


def rows(folder: Path) -> list[dict]:
    """metrics.jsonl without the times of day."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name != "time"} for line in lines]


def timeless(folder: Path) -> dict:
    """All that a trial leaves, but for seconds."""
    outcome = replace(read_outcome(folder), seconds=0.0).to_dict()
    reports = [{name: value for name, value in row.items() if name != "seconds"} for row in read_reports(folder)]
    return {"rows": rows(folder), "outcome": outcome, "reports": reports, "routing": pq.read_table(folder / "routing.parquet")}


def wait_for(what: str, found: Callable[[], bool], seconds: float = 60) -> None:
    """Look every 10 ms until it is there."""
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.01)
