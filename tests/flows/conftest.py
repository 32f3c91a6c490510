"""What the flows' tests share: the tiny prepared set, and one Prefect server."""

from __future__ import annotations

from flowkit import prefect_env
from sweepkit import tiny_data

__all__ = ["prefect_env", "tiny_data"]
