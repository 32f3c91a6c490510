from __future__ import annotations

import logging
import pickle

import pytest
import torch

from limoe import files
from limoe.train.checkpoint import Checkpoint, Checkpoints


def at(step: int) -> Checkpoint:
    return Checkpoint(step, {"weight": torch.full((3,), float(step))}, {"cursor": step})


def test_the_last_two_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest() is None
    for step in (10, 20, 30):
        checkpoints.save(at(step))
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-000000020", "step-000000030"]
    latest = checkpoints.latest()
    assert (latest.step, latest.state) == (30, {"cursor": 30})
    assert latest.tensors["weight"].tolist() == [30.0] * 3


@pytest.mark.parametrize("damage", ["flip", "truncate", "pickle", "no state", "broken state"])
def test_a_damaged_one_is_named_and_passed_over(tmp_path, caplog, damage):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(at(10))
    checkpoints.save(at(20))
    newest = tmp_path / "step-000000020"
    tensors, state = newest / "tensors.safetensors", newest / "state.json"
    content = bytearray(tensors.read_bytes())
    if damage == "flip":
        content[-1] ^= 1
        tensors.write_bytes(content)
    elif damage == "truncate":
        tensors.write_bytes(content[:-4])
    elif damage == "pickle":
        tensors.write_bytes(pickle.dumps({"weight": [1.0]}))
    elif damage == "no state":
        state.unlink()
    else:
        state.write_text("{")
    with caplog.at_level(logging.WARNING):
        assert checkpoints.latest().step == 10
    assert "step-000000020 is damaged" in caplog.text


def test_an_interrupted_save_leaves_the_previous_one(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(at(10))

    def no_space(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        checkpoints.save(at(20))
    monkeypatch.undo()
    assert checkpoints.latest().step == 10
    checkpoints.save(at(20))
    assert checkpoints.latest().step == 20
