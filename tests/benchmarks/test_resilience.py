"""`python -m benchmarks.resilience` in small: trainings of 40 steps that are killed, whose disk is full or checkpoint damaged."""

from __future__ import annotations

import random
import shutil

import pytest

from benchmarks.faults import DELETING, KEPT, TENSORS
from benchmarks.resilience import Trainings, ending


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Trainings:
    return Trainings(tmp_path_factory.mktemp("resilience"), "none", 40, random.Random(0))


@pytest.mark.parametrize("number,place", [(1, TENSORS), (2, DELETING), (3, None)])
def test_a_killed_training_goes_on_and_ends_the_same(trainings: Trainings, number: int, place: str | None) -> None:
    case = trainings.killed(number, place)
    assert case.differs == []
    assert 5 <= case.back_to <= 40, "it was killed after its first checkpoint"


def test_a_full_disk_is_a_clear_error_and_it_goes_on_once_there_is_room(trainings: Trainings) -> None:
    case = trainings.full_disk()
    assert (case.differs, case.back_to) == ([], 10), "there was room for two and a half"
    assert case.told.startswith("error: no space left on the disk (")
    assert "step-000000015" in case.told


@pytest.mark.parametrize("how", ["a flipped bit", "a truncated file"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(trainings: Trainings, how: str) -> None:
    case = trainings.damaged(how)
    assert case.differs == []
    assert f"step-{case.back_to + 5:09d} is damaged" in case.told


def test_another_ending_is_seen(trainings: Trainings) -> None:
    root = trainings.new("other")
    for name in (KEPT, "runs"):
        shutil.copytree(trainings.folder / "undisturbed" / name, root / name)
    assert ending(root) == trainings.undisturbed
    assert trainings.undisturbed["metrics"][-1]["step"] == 40
    with (root / KEPT / "metrics.jsonl").open("a") as handle:
        handle.write('{"step": 41}\n')
    (root / KEPT / "checkpoints" / "step-000000040" / TENSORS).write_bytes(b"")
    found = ending(root)
    assert [name for name in found if found[name] != trainings.undisturbed[name]] == [
        "weights, optimiser and averages",
        "metrics",
    ]
