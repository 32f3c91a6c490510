"""All that a table of trials says about its space: numbers only; pages and plots are drawn elsewhere."""

from __future__ import annotations

from limoe.sweep.findings import Sensitivity

__all__ = ["Sensitivity"]
