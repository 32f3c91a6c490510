"""Weights divided over ranks train as in one process: gradients, clipping, every optimiser, averages, checkpoints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from dividekit import STEPS, Tensors, all_cases, optimizers, trained
from rankcases import RECIPE
from rankkit import together

from limoe.world import ALONE

SHAPES = ((2, 2), (2, -1), (4, -2))  # (ranks, owners), as in dividekit
# Muon's direction and Adafactor's mean step are in bfloat16, where a rounding that falls otherwise is 1/256 of a step of lr 0.01.
TOLERANCES = {"adamw": {"rtol": 1e-7, "atol": 1e-10}, "adafactor": {"rtol": 0, "atol": 1e-4}, "muon": {"rtol": 0, "atol": 1e-4}}


def assert_equal(found: Tensors, wanted: Tensors, rtol: float = 1e-9, atol: float = 1e-12) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=rtol, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("divided")


@pytest.fixture(scope="module")
def alone(folder) -> dict[str, Any]:
    """In one process, which leaves a training half done for the others to go on with."""
    trained(ALONE, 1, folder / "half", "adamw", until=1)
    for name in ("1-1", *(f"{ranks}-{owners}" for ranks, owners in SHAPES)):
        shutil.copytree(folder / "half", folder / f"begun-{name}")
    return all_cases(ALONE, 1, folder)


@pytest.fixture(scope="module")
def divided(folder, alone) -> dict[tuple[int, int], dict[str, Any]]:
    """What the main rank has of each shape."""
    return {shape: together(shape[0], all_cases, shape[1], folder)[0] for shape in SHAPES}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", STEPS)
def test_a_step_has_the_losses_and_gradients_of_one_process(alone, divided, shape, name):
    assert_equal(divided[shape]["steps"][name], alone["steps"][name])


@pytest.mark.parametrize("shape, optimizer", [(shape, one) for shape in SHAPES for one in optimizers(shape[1])])
def test_clipped_steps_end_with_the_state_of_one_process(folder, alone, divided, shape, optimizer):
    assert_equal(divided[shape]["trained"][optimizer], alone["trained"][optimizer], **TOLERANCES[optimizer])
    ranks, owners = shape
    wanted, found = (
        [json.loads(line) for line in (folder / f"{optimizer}-{name}" / "metrics.jsonl").read_text().splitlines()]
        for name in ("1-1", f"{ranks}-{owners}")
    )
    assert all(row["gradient_norm"] > RECIPE["clip_norm"] for row in wanted)
    for row, expected in zip(found, wanted, strict=True):
        assert row | {"time": 0} == pytest.approx(expected | {"time": 0}, rel=1e-3 if optimizer != "adamw" else 1e-7)


@pytest.mark.parametrize("shape", SHAPES)
def test_what_one_process_saved_goes_on_in_parts(alone, divided, shape):
    assert_equal(divided[shape]["continued"]["adamw"], alone["trained"]["adamw"], **TOLERANCES["adamw"])


@pytest.mark.parametrize("shape", ["2-2", "4--2"])
def test_what_parts_were_saved_of_one_process_goes_on_with(folder, alone, divided, shape):
    saved = folder / f"adamw-{shape}"
    shutil.rmtree(saved / "checkpoints" / "step-000000003")
    assert_equal(trained(ALONE, 1, saved, "adamw"), alone["trained"]["adamw"], **TOLERANCES["adamw"])
