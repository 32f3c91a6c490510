"""Two and four ranks do what one process does, in float64 on the plain kernel: over gloo, each number of ranks started once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rankcases import PAIRS, RECIPE, STEPS, all_cases, three_steps, trainer
from rankkit import together

from limoe.world import ALONE

TIGHT = {"rtol": 1e-9, "atol": 1e-12}
STATE = {"rtol": 1e-7, "atol": 1e-10}  # after steps of AdamW, which divides by what may be small


def assert_equal(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], **tolerance: float) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """Of both journals, without times of day, in numbers."""
    lines = [line for name in ("metrics", "routing") for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    rows = [json.loads(line) for line in lines]
    return [
        {name: value == "text" if name == "modality" else value for name, value in row.items() if name != "time"} for row in rows
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def alone(folder) -> dict[str, Any]:
    """The same in this process; it leaves one training half done, for each number of ranks to go on with."""
    torch.manual_seed(0)
    three_steps(ALONE, folder / "half", until=1)
    for name in ("1-to-1", "1-to-2", "1-to-4"):
        shutil.copytree(folder / "half", folder / name)
    return all_cases(ALONE, folder)


@pytest.fixture(scope="module")
def two(folder, alone) -> list[dict[str, Any]]:
    found = together(2, all_cases, folder)
    for name in ("2-to-1", "2-to-4"):
        shutil.rmtree(folder / name, ignore_errors=True)
        shutil.copytree(folder / "from-2", folder / name)
    return found


@pytest.fixture(scope="module")
def four(folder, two) -> list[dict[str, Any]]:
    return together(4, all_cases, folder)


@pytest.fixture(scope="module")
def ranks(two, four) -> list[dict[str, Any]]:
    return [*two, *four]


@pytest.mark.parametrize("name", STEPS)
def test_a_step_has_the_loss_the_gradients_and_the_counts_of_one_process(alone, ranks, name):
    for found in ranks:
        assert_equal(found["steps"][name], alone["steps"][name], **TIGHT)


def test_memory_that_one_rank_lacks_cuts_the_batch_on_all(alone, ranks):
    for found in ranks:
        assert found["memory"].pop("held") == 2
        assert_equal(found["memory"], {key: alone["memory"][key] for key in found["memory"]}, **TIGHT)


def test_three_clipped_steps_end_with_the_weights_of_one_process(folder, alone, ranks):
    for found in ranks:
        assert_equal(found["training"]["state"], alone["training"]["state"], **STATE)
    assert any("bias_ME" in name and value.any() for name, value in alone["training"]["state"].items())
    rows = {size: rows_of(folder / size) for size in "124"}
    assert all(row["gradient_norm"] > RECIPE["clip_norm"] for row in rows["1"] if "gradient_norm" in row)
    for size in "24":
        for row, wanted in zip(rows[size], rows["1"], strict=True):
            assert row == pytest.approx(wanted, rel=1e-7), "once, and as one process writes it"


def test_equal_ranks_have_equal_bits(two, four):
    for ranks in (two, four):
        for found in ranks[1:]:
            assert_equal(found["training"]["state"], ranks[0]["training"]["state"], rtol=0, atol=0)


def test_what_some_ranks_saved_others_go_on_with(folder, alone, two, four):
    continued = [found[name] for found in (*two, *four) for name in ("from-1",)] + [found["from-2"] for found in four]
    continued.append(three_steps(ALONE, folder / "2-to-1"))
    for found in continued:
        assert found["begun"] == 1
        assert_equal(found["state"], alone["training"]["state"], **STATE)


def test_a_step_that_one_rank_spoils_is_left_out_by_all_and_its_whole_batch_is_named(folder, alone, ranks):
    for found in ranks:
        assert found["spoilt"]["skipped"] == 1
        assert_equal(found["spoilt"]["state"], alone["spoilt"]["state"], **STATE)
    for size in (1, 2, 4):
        (bad,) = [json.loads(line) for line in (folder / f"spoilt-{size}" / "bad_batches.jsonl").read_text().splitlines()]
        assert (bad["step"], bad["loss"]) == (2, "nan")
        assert bad["keys"] == [f"pair{i}" for i in range(PAIRS)]


def test_what_breaks_one_rank_takes_all_back_to_the_same_checkpoint(alone, ranks):
    for found in (alone, *ranks):
        assert found["rolled back"]["done"] == [(4, 3)]
        assert_equal(found["rolled back"]["state"], alone["rolled back"]["state"], **STATE)


def test_all_ranks_end_a_training_that_has_not_recovered(alone, ranks):
    assert alone["not recovered"].startswith("training stopped at step 6 after 1 rollback: loss-at-chance: ")
    for found in ranks:
        assert found["not recovered"] == alone["not recovered"]


def test_a_signal_to_one_rank_ends_all_at_the_same_saved_step(folder, ranks):
    for found in ranks:
        assert found["interrupted"] == {"code": 143, "step": 2}
    for size in (2, 4):
        assert trainer(ALONE, folder / f"interrupted-{size}").step == 2
