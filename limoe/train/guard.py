"""Steps whose loss or gradient is not finite are skipped: the device decides that, and tells how it went when it is asked."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from limoe.train.alarm import Alarm


class FiniteGuard:
    """Counts skipped steps; `limit` of them in a row are a divergence: `alarm`.

    unread: loss and gradient norm of the steps that have not been judged yet, by step, on the device.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_a_row = self.skipped = 0
        self.alarm: Alarm | None = None
        self.unread: dict[int, Tensor] = {}
        self._keys: dict[int, tuple[str, ...]] = {}

    def spoilt(self, loss: Tensor, gradient_norm: Tensor, step: int, keys: tuple[str, ...]) -> Tensor:
        """bool scalar, on the device: whether the step must be skipped. step: its number, from 1, as in metrics.jsonl. keys: of
        the batch."""
        self.unread[step] = torch.stack([loss.double(), gradient_norm.double()])
        self._keys[step] = keys
        return ~self.unread[step].isfinite().all()

    def judge(self, read: dict[int, Tensor]) -> list[dict[str, Any]]:
        """Judge steps, `read` from `unread` in their order; of each that was skipped what bad_batches.jsonl shall say."""
        bad = []
        for step, pair in read.items():
            del self.unread[step]
            keys, (loss, norm) = self._keys.pop(step), pair.tolist()
            if math.isfinite(loss) and math.isfinite(norm):
                self.in_a_row = 0
            else:
                self._skip(loss, norm, step, keys)
                bad.append({"step": step, "loss": str(loss), "gradient_norm": str(norm), "keys": list(keys)})  # JSON has no NaN
        return bad

    def restart(self) -> None:
        """The training has gone back to weights that were good. What was skipped stays counted."""
        self.in_a_row, self.alarm = 0, None

    def state_dict(self) -> dict[str, Any]:
        """JSON-able, of the steps that were judged."""
        alarm = None if self.alarm is None else asdict(self.alarm)
        return {"in_a_row": self.in_a_row, "skipped": self.skipped, "alarm": alarm}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.in_a_row, self.skipped = state["in_a_row"], state["skipped"]
        self.alarm = None if state["alarm"] is None else Alarm(**state["alarm"])

    def _skip(self, loss: float, norm: float, step: int, keys: tuple[str, ...]) -> None:
        self.in_a_row += 1
        self.skipped += 1
        if self.in_a_row >= self.limit and self.alarm is None:
            evidence = (
                f"the loss was {loss:g} and the gradient norm {norm:g}, not finite for {self.in_a_row} steps in a row "
                f"(the batch begins with {', '.join(keys[:3])}; all keys stand in bad_batches.jsonl)"
            )
            self.alarm = Alarm("diverged", step, evidence)
