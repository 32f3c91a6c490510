"""Embeddings (and hashes) kept on disk, so that a model and a set that met before need not meet again.

An entry is named by all that its bits follow from: the model, the code, torch and the device (the folder), and what is embedded
(the file). So nothing is ever out of date, and the folder may be deleted at any time.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from limoe.files import write_bytes


class Store:
    """Entries of one model in `folder`, which is made when the first is written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, kind: str, content: str, compute: Callable[[], Tensor]) -> Tensor:
        """The embeddings (on the processor) of what has the hash `content`, computed if they are not there, or damaged."""
        path = self.folder / f"{kind}-{content[:32]}.safetensors"
        try:
            return load_file(path)["embeddings"]
        except (FileNotFoundError, SafetensorError, KeyError):
            found = compute().cpu().contiguous()
        write_bytes(path, save({"embeddings": found}))
        return found


def environment(device: torch.device) -> dict[str, str]:
    """What the bits of an embedding follow from beside model and data."""
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device.type)
    return {"torch": torch.__version__, "device": kind, "threads": str(torch.get_num_threads())}
