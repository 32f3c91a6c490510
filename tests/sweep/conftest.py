"""The tiny prepared set that trials are run on, built once a session."""

from __future__ import annotations

from sweepkit import tiny_data

__all__ = ["tiny_data"]
