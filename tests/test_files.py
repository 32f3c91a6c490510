"""Files that are whole or absent, also when the disk is full, and the lock that keeps a second process out."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limoe import files
from limoe.errors import UserError

HOLDER = """
import sys
from pathlib import Path
from limoe.files import exclusive_lock
with exclusive_lock(Path(sys.argv[1]), "holding"):
    print("held", flush=True)
    sys.stdin.read()
"""
APPENDER = """
import sys
from pathlib import Path
from limoe.files import exclusive_lock
lock, log = map(Path, sys.argv[1:])
for _ in range(40):
    with exclusive_lock(lock, "appending", wait=True):
        seen = log.read_text()
        log.write_text(seen + "x")
"""
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_json_survives_and_is_canonical(value: Any) -> None:
    text = files.dump_json(value)
    assert json.loads(text) == value
    assert text.endswith("\n")
    assert files.sha256_json(value) == hashlib.sha256(text.encode()).hexdigest()


def test_the_order_of_keys_does_not_matter_and_nan_is_refused() -> None:
    assert files.dump_json({"b": 1, "a": 2}) == files.dump_json({"a": 2, "b": 1})
    with pytest.raises(ValueError, match="JSON"):
        files.dump_json(math.nan)


def test_reading_what_is_missing_or_broken_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match=r"model\.safetensors/config\.json: no such file"):
        files.read_json(tmp_path / "model.safetensors" / "config.json")
    with pytest.raises(UserError, match=r"nothing\.json: no such file"):
        files.read_json(tmp_path / "nothing.json")
    (tmp_path / "half.json").write_text('{"a": ')
    with pytest.raises(UserError, match=r"half\.json: not valid JSON"):
        files.read_json(tmp_path / "half.json")


def test_a_file_appears_whole_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "value.json"
    files.write_json(path, [1])
    assert files.read_json(path) == [1]
    assert os.listdir(path.parent) == ["value.json"]
    assert files.sha256_file(path) == hashlib.sha256(b"[\n  1\n]\n").hexdigest()


def test_a_failed_write_leaves_the_old_content_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "value"
    files.write_text(path, "old")
    with pytest.raises(RuntimeError, match="broke off"), files.atomic_file(path) as handle:
        handle.write(b"half of the n")
        raise RuntimeError("broke off")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["value"]


def test_a_full_disk_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "value"
    files.write_text(path, "old")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_text(path, "new")
    with pytest.raises(OSError, match="No space left"), files.atomic_directory(tmp_path / "folder") as folder:
        (folder / "a").write_text("x")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["value"]


def test_a_folder_replaces_the_old_one_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "out"
    for content in ("first", "second"):
        with files.atomic_directory(path) as folder:
            (folder / content).write_text(content)
    assert os.listdir(path) == ["second"]
    with pytest.raises(RuntimeError, match="broke off"), files.atomic_directory(path) as folder:
        (folder / "third").write_text("x")
        raise RuntimeError("broke off")
    assert os.listdir(path) == ["second"]
    assert os.listdir(tmp_path) == ["out"]


def test_the_lock_names_its_holder_and_dies_with_it(tmp_path: Path, project: Path) -> None:
    lock = tmp_path / "locks" / "training"
    command = [sys.executable, "-c", HOLDER, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=project) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError) as caught, files.exclusive_lock(lock, "training limoe"):
            pytest.fail("two holders of one lock")
        holder.kill()
    assert f"training limoe is already running: process {holder.pid} holds {lock}" in str(caught.value)
    with files.exclusive_lock(lock, "training limoe"):
        assert lock.read_text() == f"process {os.getpid()}"


def test_a_patient_lock_lets_nobody_in_between(tmp_path: Path, project: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    command = [sys.executable, "-c", APPENDER, str(tmp_path / "lock"), str(log)]
    workers = [subprocess.Popen(command, cwd=project) for _ in range(2)]
    assert [worker.wait() for worker in workers] == [0, 0]
    assert log.read_text() == "x" * 80


def test_flatten() -> None:
    assert files.flatten({"a": {"b": {"c": 1}, "d": {}}, "e": None}) == {"a.b.c": 1, "e": None}


def test_a_folder_that_cannot_be_moved_into_place_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("old")
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name.endswith(".tmp") and not self.name.endswith(".old.tmp"):
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="no"), files.atomic_directory(out) as temporary:
        (temporary / "new").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "old").read_text() == "old"


def test_a_linked_folder_is_replaced_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "disk" / "out").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "out")
    with files.atomic_directory(tmp_path / "out") as temporary:
        (temporary / "new").write_text("new")
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "disk" / "out" / "new").read_text() == "new"


def test_what_a_killed_process_left_half_written_is_removed_and_a_living_one_is_let_be(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead, living, other = (
        tmp_path / name for name in (f".out.{ended.pid}.tmp", f".out.{os.getppid()}.tmp", f".output.{ended.pid}.tmp")
    )
    for folder in (dead, living, other):
        folder.mkdir()
    with files.atomic_directory(tmp_path / "out") as temporary:
        (temporary / "a").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["out", living.name, other.name])
