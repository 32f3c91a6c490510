"""Trials of a second or two: a tiny prepared set, parameters to go with it, and trials made of them.

The set is built once a session (`tiny_data`), for any test that asks for it: put `from sweepkit import tiny_data  # noqa: F401`
into a test file, or into a conftest.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trainkit import prepare_shapes, recipe

from limoe.config import Contestant, Params
from limoe.sweep.trial import TrialSpec, create

OVERRIDES = ("train.checkpoint_every=4", "train.log_every=2", "train.steps=12", "machine.device=cpu", "machine.workers=0")


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


def wait_for(what: str, found: Callable[[], bool], seconds: float = 60) -> None:
    """Look every 10 ms until it is there."""
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.01)
