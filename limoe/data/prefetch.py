"""Batches on a GPU before they are asked for: the next one is copied there while the step with the last one runs."""

from __future__ import annotations

from typing import Any

import torch

from limoe.data.loader import PairLoader
from limoe.model.tokens import PairBatch


class Prefetched:
    """A loader whose batches lie on `device`, one ahead; its state is that of the last batch that was handed out.

    Copies run beside the computation if the loader's batches are in pinned memory. What the loader raises for a batch comes one
    batch early.
    """

    def __init__(self, loader: PairLoader, device: torch.device) -> None:
        self._loader, self._device = loader, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._state = loader.state_dict()
        self._next: PairBatch | None = None

    def __next__(self) -> PairBatch:
        """The next batch, on the device."""
        batch = self._copied() if self._next is None else self._next
        self._state = self._loader.state_dict()
        if self._stream is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_stream(self._stream)
            for tensor in (batch.images_BCHW, batch.ids_N):
                tensor.record_stream(current)  # or its memory would be free for the copies before the step is done with it
        self._next = self._copied()
        return batch

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state after the last batch that was handed out."""
        return self._state

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Continue after the batch at which `values` was taken."""
        self._loader.load_state_dict(values)
        self._state, self._next = self._loader.state_dict(), None

    def _copied(self) -> PairBatch:
        with torch.cuda.stream(self._stream):
            return next(self._loader).to(self._device)
