"""LIMoE: one sparse tower for pictures and text, trained, measured and compared.

`limoe.load(folder)` opens a trained model. It is imported on first use: `import limoe` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from limoe.api import load

__all__ = ["load"]


def __getattr__(name: str) -> object:
    if name == "load":
        return import_module("limoe.api").load  # by name: no stage's code depends on this door
    raise AttributeError(f"module 'limoe' has no attribute {name!r}")
