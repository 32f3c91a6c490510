"""Pickles that do harm when they are opened: they make a file."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import torch

PICKLERS = ("pickle", "torch.save")


class Evil:
    """Unpickled, it makes the file `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def pickled(path: Path, how: str) -> bytes:
    """Bytes that make the file `path` if anybody unpickles them: a plain pickle, or what torch.save writes."""
    if how == "pickle":
        content = pickle.dumps(Evil(path))
        pickle.loads(content)
        assert path.exists(), "it does no harm, and tests nothing"
        path.unlink()
        return content
    buffer = io.BytesIO()
    torch.save({"weight": Evil(path)}, buffer)
    return buffer.getvalue()
