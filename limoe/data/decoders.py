"""The pictures of a training batch made by several processes at once: threads would wait for each other's Python code.

Axes: O pictures of a batch that this rank makes, C = 3 colour channels, H height, W width, N numbers drawn.

Each process makes its share of every batch, the pictures whose index it owns, so that what it keeps decoded no other one keeps as
well. Encoded pictures go to it through a pipe, and it writes the finished ones into the batch itself: memory that the processes
share (Linux's memfd), used for another batch once nothing refers to it any more: fresh memory would be given its pages, and
these be zeroed, with every batch. What it is worth: docs/benchmarks.md.
"""

from __future__ import annotations

import math
import mmap
import os
import weakref
from collections import deque
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor, wait
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from limoe.data.augment import Augmentation
from limoe.data.decoding import Encoded, Pictures
from limoe.data.interpreters import interpreters
from limoe.errors import Reported

POSSIBLE = hasattr(os, "memfd_create")


@dataclass(frozen=True)
class Place:
    """Where a batch lies: the file of its memory, and shape (O, C, H, W)."""

    path: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Share:
    """What one process is to do of a batch: pictures with the numbers drawn for them, and the rows of the batch they are for."""

    batch: Place
    rows: list[int]
    pictures: list[Encoded]
    draws_ON: np.ndarray[tuple[int, int], np.dtype[np.float32]]


class Decoders:
    """Augmented training pictures as `Pictures` makes them, to the bit, by processes. Close them when done."""

    def __init__(self, count: int, pictures: int, augmentation: Augmentation, cache_mb: int) -> None:
        """count: processes. pictures: of a batch, O. cache_mb: for decoded pictures, MiB, of all processes together."""
        self._pools = [interpreters(1, _begin, (augmentation, cache_mb // count)) for _ in range(count)]
        self._memory = SharedBatches((pictures, 3, augmentation.size, augmentation.size))

    def make(self, pictures: Sequence[Encoded], draws_ON: Tensor) -> Tensor:
        """float32 (O, 3, size, size), normalised; see Pictures.make. Reported if a process was killed."""
        batch, images_OCHW = self._memory.new()
        owners = [picture.index % len(self._pools) for picture in pictures]
        try:
            futures = []
            for number, pool in enumerate(self._pools):
                rows = [row for row, owner in enumerate(owners) if owner == number]
                share = Share(batch, rows, [pictures[row] for row in rows], draws_ON[rows].numpy())
                futures.append(pool.submit(_make, share))
            wait(futures)  # all of them: none may write into this memory when it is another batch's
            for future in futures:
                future.result()
        except BrokenExecutor:
            raise Reported(
                "machine",
                "a process that decodes training pictures was killed, perhaps for want of memory: lower machine.workers or "
                "machine.cache_mb, and start again; the training goes on from its last checkpoint",
            ) from None
        return images_OCHW

    def close(self) -> None:
        """End the processes. Batches that were made stay what they are."""
        for pool in self._pools:
            pool.shutdown(cancel_futures=True)
        self._memory.close()


class SharedBatches:
    """Batches in memory that other processes can write into; the memory of one that nothing refers to becomes another one's."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        """Of such float32 batches."""
        self._shape, self._bytes = shape, 4 * math.prod(shape)
        self._free: deque[tuple[int, mmap.mmap]] = deque()
        self._files: list[int] = []

    def new(self) -> tuple[Place, Tensor]:
        """A batch, not initialised, and where other processes find it."""
        try:
            file, memory = self._free.popleft()
        except IndexError:
            file = os.memfd_create("limoe-batch")
            self._files.append(file)
            os.ftruncate(file, self._bytes)
            memory = mmap.mmap(file, self._bytes)
        numbers = np.frombuffer(memory, np.float32)  # referred to by every tensor that sees the memory
        weakref.finalize(numbers, self._free.append, (file, memory)).atexit = False
        return Place(f"/proc/{os.getpid()}/fd/{file}", self._shape), torch.from_numpy(numbers.reshape(self._shape))

    def close(self) -> None:
        """Memory that is still referred to is let go of with its last tensor."""
        self._free.clear()
        while self._files:
            os.close(self._files.pop())


class _Decoder:
    """One of the processes: its pictures, and the batches that it has seen."""

    def __init__(self, augmentation: Augmentation, cache_mb: int) -> None:
        self._pictures = Pictures(augmentation, cache_mb)
        self._batches: dict[str, Tensor] = {}

    def make(self, share: Share) -> None:
        images_OCHW = self._batch(share.batch)
        self._pictures.write(share.pictures, torch.from_numpy(share.draws_ON), [images_OCHW[row] for row in share.rows])

    def _batch(self, place: Place) -> Tensor:
        if place.path not in self._batches:
            with open(place.path, "r+b") as file:
                self._batches[place.path] = torch.from_numpy(np.frombuffer(mmap.mmap(file.fileno(), 0), np.float32))
        return self._batches[place.path].view(place.shape)


_decoder: _Decoder  # of this process, if it is one of them


def _begin(augmentation: Augmentation, cache_mb: int) -> None:
    global _decoder
    torch.set_num_threads(1)
    _decoder = _Decoder(augmentation, cache_mb)


def _make(share: Share) -> None:
    _decoder.make(share)
