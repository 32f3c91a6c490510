"""Batches on the device that trains before they are asked for: copied there and finished during the step with the last one."""

from __future__ import annotations

from concurrent.futures import Future, wait
from typing import Any, NamedTuple, Self

import torch

from limoe.data.loader import PairLoader
from limoe.data.threads import single_core_thread
from limoe.model.tokens import PairBatch


class Ready(NamedTuple):
    """A batch on the device, the loader's state after it, and what a GPU's stream has to wait for before it looks at it."""

    batch: PairBatch
    state: dict[str, Any]
    done: torch.cuda.Event | None


class Prefetched:
    """A loader's batches, finished on `device` by a thread of one core; its state is that of the last one that was handed out.

    On a GPU they have a stream of their own, beside the computation if the loader's batches are in pinned memory. What goes wrong
    with a batch is raised where that batch is asked for. Close it when done: it closes the loader, too.
    """

    def __init__(self, loader: PairLoader, device: torch.device, ahead: bool = True) -> None:
        """ahead: whether a batch is made ready during the step with the one before it, or when it is asked for."""
        self._loader, self._device, self._ahead = loader, device, ahead
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._pool = single_core_thread("limoe-loader-ahead")
        self._state = loader.state_dict()
        self._coming: Future[Ready] | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> PairBatch:
        """The next batch, on the device."""
        self._coming = self._coming or self._pool.submit(self._make)
        batch, self._state, done = self._coming.result()
        if done is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(done)
            for tensor in (batch.images_BCHW, batch.ids_N):
                tensor.record_stream(current)  # or its memory would be free for the next batch before the step is done with it
        self._coming = self._pool.submit(self._make) if self._ahead else None
        return batch

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state after the last batch that was handed out."""
        return self._state

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Continue after the batch at which `values` was taken."""
        self._drop()
        self._loader.load_state_dict(values)
        self._state = self._loader.state_dict()

    def close(self) -> None:
        """End the thread, and what the loader has opened."""
        self._drop()
        self._pool.shutdown()
        self._loader.close()

    def _drop(self) -> None:
        """Let go of the batch that is being made; when that is over nobody uses the loader."""
        if self._coming is not None:
            wait([self._coming])
            self._coming = None

    def _make(self) -> Ready:
        if self._stream is None:  # and CUDA is left alone
            return Ready(next(self._loader).to(self._device).finished(), self._loader.state_dict(), None)
        torch.cuda.set_device(self._stream.device)  # of this thread; else leaving the stream would begin to use the first GPU
        with torch.cuda.stream(self._stream):
            batch = next(self._loader).to(self._device).finished()
            return Ready(batch, self._loader.state_dict(), self._stream.record_event())
