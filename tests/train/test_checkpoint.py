from __future__ import annotations

import hashlib
import logging
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
import torch
from evilkit import PICKLERS, pickled

from limoe import files
from limoe.errors import UserError
from limoe.train.checkpoint import SUMS, Checkpoint, Checkpoints


def at(step: int, *needs: int) -> Checkpoint:
    return Checkpoint(step, {"weight": torch.full((3,), float(step))}, {"cursor": step}, needs)


def saved(checkpoints: Checkpoints, *those: Checkpoint) -> list[int]:
    """The steps of what is there once all of these have been saved."""
    for one in those:
        checkpoints.save(one)
    checkpoints.wait()
    return [int(path.name.removeprefix("step-")) for path in sorted(checkpoints.folder.iterdir())]


def test_the_last_two_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.latest() is None
    assert saved(checkpoints, at(10), at(20), at(30)) == [20, 30]
    latest = checkpoints.latest()
    assert (latest.step, latest.state) == (30, {"cursor": 30})
    assert latest.tensors["weight"].tolist() == [30.0] * 3


def test_what_a_kept_one_needs_is_kept_as_long(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert saved(checkpoints, at(10), at(20, 10), at(30, 10)) == [10, 20, 30]
    assert saved(checkpoints, at(40, 40)) == [10, 30, 40]  # 30 still needs it
    assert saved(checkpoints, at(50, 40)) == [40, 50]
    assert checkpoints.latest().needs == (40,)


def test_those_after_a_new_one_are_of_a_past_that_was_given_up(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    saved(checkpoints, at(20), at(30))
    assert saved(checkpoints, at(25)) == [20, 25]


def damage(folder: Path, how: str) -> None:
    tensors, state = folder / "tensors.safetensors", folder / "state.json"
    content = bytearray(tensors.read_bytes())
    if how == "a bit of the tensors":
        content[-1] ^= 1
        tensors.write_bytes(content)
    elif how == "a bit of the state":
        state.write_bytes(state.read_bytes().replace(b'"cursor": 20', b'"cursor": 30'))
    elif how == "truncated tensors":
        tensors.write_bytes(content[:-4])
    elif how == "truncated state":
        state.write_bytes(state.read_bytes()[:-9])
    elif how == "no state":
        state.unlink()
    elif how == "no sums":
        (folder / SUMS).unlink()
    else:
        (folder / SUMS).write_text("\xff\n")


HARMS = [
    "a bit of the tensors",
    "a bit of the state",
    "truncated tensors",
    "truncated state",
    "no state",
    "no sums",
    "broken sums",
]


@pytest.mark.parametrize("how", HARMS)
def test_a_damaged_one_is_named_and_passed_over(tmp_path, caplog, how):
    checkpoints = Checkpoints(tmp_path, keep=2)
    saved(checkpoints, at(10), at(20))
    damage(tmp_path / "step-000000020", how)
    with caplog.at_level(logging.WARNING):
        assert checkpoints.latest().step == 10
    assert "step-000000020 is damaged" in caplog.text
    assert "going back to the checkpoint before it" in caplog.text
    assert saved(checkpoints, at(15)) == [10, 15], "a damaged one is not counted among those that are kept"


@pytest.mark.parametrize("how", PICKLERS)
@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
def test_a_malicious_pickle_is_not_opened_though_its_checksum_is_right(tmp_path, name, how):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    saved(checkpoints, at(10), at(20))
    folder, content = checkpoints.folder / "step-000000020", pickled(tmp_path / "harm", how)
    (folder / name).write_bytes(content)
    sums = [
        f"{hashlib.sha256((folder / one).read_bytes()).hexdigest()}  {one}\n" for one in ("tensors.safetensors", "state.json")
    ]
    (folder / SUMS).write_text("".join(sums))
    assert checkpoints.latest().step == 10
    assert not (tmp_path / "harm").exists()


def test_the_checksums_are_those_of_sha256sum(tmp_path):
    if shutil.which("sha256sum") is None:
        pytest.skip("sha256sum is not installed")
    saved(Checkpoints(tmp_path, keep=2), at(10))
    told = subprocess.run(["sha256sum", "-c", SUMS], cwd=tmp_path / "step-000000010", capture_output=True, text=True, check=True)
    assert told.stdout.splitlines() == ["tensors.safetensors: OK", "state.json: OK"]


def test_an_interrupted_save_leaves_the_previous_one(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, keep=2)
    saved(checkpoints, at(10))

    def no_space(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", no_space)
    checkpoints.save(at(20))
    with pytest.raises(OSError, match="No space"):
        checkpoints.wait()
    checkpoints.wait()  # it is told once
    checkpoints.save(at(20))
    with pytest.raises(OSError, match="No space"):
        checkpoints.save(at(30))
    monkeypatch.undo()
    assert checkpoints.latest().step == 10
    assert saved(checkpoints, at(20)) == [10, 20]
    assert checkpoints.latest().step == 20


def test_what_killed_processes_left_is_removed(tmp_path):
    saved(Checkpoints(tmp_path, keep=2), at(10))
    for left in (".step-000000013.4194304.tmp", ".step-000000005.gone"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "tensors.safetensors").write_bytes(b"half")
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.clean()
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000010"]
    with pytest.raises(UserError, match=r"step-000000013 is damaged"):
        checkpoints.read(13)


def test_it_is_written_in_the_background_from_a_copy_of_the_moment(tmp_path):
    checkpoints, go, asked = Checkpoints(tmp_path, keep=2), threading.Event(), []

    def before():
        asked.append(threading.current_thread())
        go.wait()

    one = at(10)
    checkpoints.save(one, before)
    assert checkpoints.writing
    one.tensors["weight"].zero_()
    one.state["cursor"] = 0
    assert not list(tmp_path.glob("step-*"))
    go.set()
    checkpoints.wait()
    assert not checkpoints.writing
    assert asked != [threading.current_thread()]
    assert checkpoints.latest().tensors["weight"].tolist() == [10.0] * 3
    assert checkpoints.latest().state == {"cursor": 10}
