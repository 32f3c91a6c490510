"""Checkpoints that are whole or absent: tensors as safetensors, the rest as JSON, checksums of both; never a pickle.

One is a folder: tensors.safetensors, state.json and SHA256SUMS, which `sha256sum -c` reads. It is written in the background, from
a copy that is made at once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from limoe.errors import UserError
from limoe.files import atomic_directory, dump_json, write_bytes

log = logging.getLogger(__name__)
TENSORS, STATE, SUMS = "tensors.safetensors", "state.json", "SHA256SUMS"
DAMAGED = (UserError, OSError, KeyError, TypeError, ValueError, SafetensorError)  # what reading a damaged one raises


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a training needs to go on: the number of finished steps, tensors by name, and JSON state.

    needs: steps of older checkpoints that must stay as long as this one does.
    """

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]
    needs: tuple[int, ...] = ()


class Checkpoints:
    """The checkpoints of one training, in `folder`, one subfolder each; the newest `keep` stay. One process at a time."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep
        self._writing: Future[None] | None = None

    def save(self, checkpoint: Checkpoint, before: Callable[[], object] = lambda: None) -> None:
        """Copy it to the processor's memory, and begin to write; `before` is called first, by the thread that writes.

        The one before is waited for, and what went wrong with it is raised here.
        """
        self.wait()
        tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in checkpoint.tensors.items()}
        state = dump_json({"step": checkpoint.step, "needs": list(checkpoint.needs), "state": checkpoint.state}).encode()
        pool = ThreadPoolExecutor(1, "limoe-checkpoint")
        self._writing = pool.submit(self._write, checkpoint.step, tensors, state, before)
        pool.shutdown(wait=False)  # the thread ends when it is done

    def wait(self) -> None:
        """Until nothing is being written; what went wrong is raised, once."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    @property
    def writing(self) -> bool:
        """Whether one is being written. What went wrong with one that no longer is, `wait` raises."""
        return self._writing is not None and not self._writing.done()

    def clean(self) -> None:
        """Remove what a process that was killed has half written or half deleted."""
        for left in self.folder.glob(".step-*"):
            shutil.rmtree(left)

    def latest(self) -> Checkpoint | None:
        """The newest one that is undamaged, or None; a damaged one is named in a warning and passed over."""
        for step in reversed(self._saved()):
            try:
                return self.read(step)
            except UserError as error:
                log.warning("%s: going back to the checkpoint before it", error)
        return None

    def read(self, step: int) -> Checkpoint:
        """The one of this step; UserError if it is absent or damaged."""
        path = self._path(step)
        try:
            sums = [line.split("  ", 1) for line in (path / SUMS).read_text(encoding="utf-8").splitlines()]
            expected = {name: digest for digest, name in sums}
            tensors, content = (_verified(path / name, expected[name]) for name in (TENSORS, STATE))
            state = json.loads(content)
            return Checkpoint(state["step"], load(tensors), state["state"], tuple(state["needs"]))
        except DAMAGED as error:
            raise UserError(f"{path} is damaged ({error})") from None

    def _write(self, step: int, tensors: dict[str, Tensor], state: bytes, before: Callable[[], object]) -> None:
        before()
        with atomic_directory(self._path(step)) as temporary:
            contents = {TENSORS: save(tensors), STATE: state}
            sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in contents.items())
            for name, content in (contents | {SUMS: sums.encode()}).items():
                write_bytes(temporary / name, content)
        for old in set(self._saved()) - self._wanted(step):
            gone = self._path(old).rename(self.folder / f".{self._path(old).name}.gone")
            shutil.rmtree(gone)

    def _wanted(self, newest: int) -> set[int]:
        """Steps of the checkpoints that stay. Those after `newest` do not: they are damaged, or of a past that was given up."""
        kept = [step for step in self._saved() if step <= newest][-self.keep :]
        return {*kept, *(needed for step in kept for needed in self._needs(step))}

    def _needs(self, step: int) -> list[int]:
        try:
            return [int(needed) for needed in json.loads((self._path(step) / STATE).read_bytes())["needs"]]
        except DAMAGED:
            return []

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}"

    def _saved(self) -> list[int]:
        return sorted(int(path.name.removeprefix("step-")) for path in self.folder.glob("step-*"))


def _verified(path: Path, digest: str) -> bytes:
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise UserError(f"{path.name} is not what its checksum says")
    return content
