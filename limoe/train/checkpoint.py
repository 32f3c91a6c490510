"""Checkpoints that are whole or absent: tensors as safetensors with a checksum, the rest as JSON; never a pickle."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from limoe.errors import UserError
from limoe.files import atomic_directory, read_json, sha256_file, write_bytes, write_json

log = logging.getLogger(__name__)
KEEP = 2  # the one before the last is there in case the last was damaged


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a training needs to go on: the number of finished steps, tensors by name, and JSON state."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints of one training, in `folder`, one subfolder each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, checkpoint: Checkpoint) -> None:
        """Write one, then delete all but the last two."""
        with atomic_directory(self.folder / f"step-{checkpoint.step:09d}") as temporary:
            write_bytes(temporary / "tensors.safetensors", save(checkpoint.tensors))
            digest = sha256_file(temporary / "tensors.safetensors")
            write_json(temporary / "state.json", {"step": checkpoint.step, "state": checkpoint.state, "sha256": digest})
        for old in self._saved()[:-KEEP]:
            shutil.rmtree(old)

    def latest(self) -> Checkpoint | None:
        """The newest one that is undamaged, or None; a damaged one is named in a warning and passed over."""
        for path in reversed(self._saved()):
            try:
                return self._read(path)
            except (UserError, OSError, KeyError) as error:
                log.warning("%s is damaged (%s): going back to the checkpoint before it", path, error)
        return None

    def _saved(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))

    @staticmethod
    def _read(path: Path) -> Checkpoint:
        content = read_json(path / "state.json")
        if sha256_file(path / "tensors.safetensors") != content["sha256"]:
            raise UserError("its checksum does not match")
        return Checkpoint(content["step"], load((path / "tensors.safetensors").read_bytes()), content["state"])
