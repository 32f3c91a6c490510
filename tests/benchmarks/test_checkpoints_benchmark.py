"""`python -m benchmarks.checkpoints` end to end at tiny shapes: who saves, when, and that the write falls into its own turn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benchkit import checked, ratios

from benchmarks.checkpoints import NEVER, main, subject_of, trainer_at
from benchmarks.layers import PARAMS
from benchmarks.step import QUICK
from limoe.config import Params


def test_a_training_with_saves_and_one_without_take_turns(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints.json"
    main(["--quick", "--threads", "1", "--device", "cpu", "--folder", str(tmp_path), "--json", str(path)])
    report = checked(path)
    assert ratios(report, "4 steps of limoe").keys() == {("a save a turn", "none"), ("none", "none")}
    assert [row["bar"] for row in report["rows"]] == [1.05, None]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints.json"], "its trainings are gone"


@pytest.mark.parametrize("every,saved", [(4, [4, 8]), (NEVER, [])])
def test_each_turn_has_its_save_in_the_middle_and_waits_for_it(tmp_path: Path, every: int, saved: list[int]) -> None:
    params = Params.load(PARAMS, (*QUICK, "train.threads=1", "train.checkpoints.keep=2"))
    trainer = trainer_at(params, every, 4, torch.device("cpu"), tmp_path)
    subject = subject_of(trainer, "one", 4)
    for end in (6, 10):
        subject.run()
        assert trainer.step == end
        assert not trainer.saver.checkpoints.writing
    assert sorted(int(path.name.removeprefix("step-")) for path in tmp_path.rglob("step-*")) == saved
