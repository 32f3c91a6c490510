"""The pictures of a training batch made by several processes at once: threads would wait for each other's Python code.

Axes: O pictures of a batch that this rank makes, C = 3 colour channels, H height, W width, N numbers drawn.

Each process makes its share of every batch, the pictures whose row it owns, so that what it keeps decoded no other one keeps as
well. Pictures go both ways through a file that is memory of all processes (Linux's memfd): first the batch, into which they write
what they have made, behind it what they make it from. A pipe would not do: it holds so little that a process had to wait for each
share. The file is another batch's once nothing refers to its memory any more: fresh memory would be given its pages, and these be
zeroed, with every batch. What it is worth: docs/benchmarks.md.
"""

from __future__ import annotations

import errno
import gc
import math
import mmap
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor, Future, wait
from functools import partial
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limoe.data.augment import Augmentation
from limoe.data.decoding import Encoded, Making, Pictures, maker_killed
from limoe.data.interpreters import interpreters
from limoe.model.recycled import lent

POSSIBLE = hasattr(os, "memfd_create")
PIECES = 64  # written in one call: Linux takes 1024, and 2 GB


class Place(NamedTuple):
    """Where a batch lies: the file that is its memory, the process whose file that is, and shape (O, C, H, W)."""

    file: int
    process: int
    shape: tuple[int, ...]

    @property
    def path(self) -> str:
        """Under which any process can open the file."""
        return f"/proc/{self.process}/fd/{self.file}"

    @property
    def size(self) -> int:
        """Bytes of the batch."""
        return math.prod(self.shape)


class Portion(NamedTuple):
    """A picture of a share: the row of the batch that it is for, what it is but for its bytes, where these lie in the file."""

    row: int
    picture: Encoded
    offset: int
    length: int


class Share(NamedTuple):
    """What one process is to do of a batch: pictures with the numbers drawn for them."""

    batch: Place
    portions: list[Portion]
    draws_ON: NDArray[np.float32]


class Decoders:
    """Augmented training pictures as `Pictures` makes them, to the bit, by processes. Close them when done."""

    def __init__(self, count: int, pictures: int, augmentation: Augmentation, cache_mb: int) -> None:
        """count: processes. pictures: of a batch, O. cache_mb: for decoded pictures, MiB, of all processes together."""
        self._pools = [interpreters(1, _begin, (augmentation, cache_mb // count)) for _ in range(count)]
        self._memory = SharedBatches((pictures, 3, augmentation.size, augmentation.size))

    def begin(self, pictures: Sequence[Encoded], draws_ON: Tensor) -> Making:
        """uint8 (O, 3, size, size); see Pictures.write. Reported, now or at the end, if a process was killed."""
        batch, images_OCHW = self._memory.new()
        offsets = self._memory.write(batch, [picture.image for picture in pictures])
        shares: list[list[Portion]] = [[] for _ in self._pools]
        for row, (picture, offset) in enumerate(zip(pictures, offsets, strict=True)):
            shares[picture.row % len(shares)].append(Portion(row, picture._replace(image=b""), offset, len(picture.image)))
        parts: list[Future[None]] = []
        try:
            for pool, portions in zip(self._pools, shares, strict=True):
                own = [portion.row for portion in portions]
                parts.append(pool.submit(_make, Share(batch, portions, draws_ON[own].numpy())))
        except BaseException as error:
            wait(parts)  # or they would write into memory that is another batch's by then
            if isinstance(error, BrokenExecutor):
                raise maker_killed() from None
            raise
        return Making(images_OCHW, parts)

    def close(self) -> None:
        """End the processes. Batches that were made stay what they are."""
        for pool in self._pools:
            pool.shutdown(cancel_futures=True)
        self._memory.close()


class SharedBatches:
    """Batches in memory that other processes can write into; the memory of one that nothing refers to becomes another one's."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        """Of such uint8 batches."""
        self._shape = shape
        self._free: deque[tuple[Place, mmap.mmap]] = deque()
        self._files: list[int] = []

    def new(self) -> tuple[Place, Tensor]:
        """A batch, not initialised, and where other processes find it."""
        try:
            place, memory = self._free.popleft()
        except IndexError:
            place = Place(os.memfd_create("limoe-batch"), os.getpid(), self._shape)
            self._files.append(place.file)
            os.ftruncate(place.file, place.size)
            memory = mmap.mmap(place.file, place.size)
        return place, lent(memory, partial(self._free.append, (place, memory))).view(self._shape)

    def write(self, place: Place, pieces: Sequence[bytes]) -> list[int]:
        """Put these bytes behind a batch, over what was there; the offsets at which they lie in its file."""
        *offsets, _ = accumulate(map(len, pieces), initial=place.size)
        for first in range(0, len(pieces), PIECES):
            some = pieces[first : first + PIECES]
            written = os.pwritev(place.file, some, offsets[first])
            if written < (size := sum(map(len, some))):
                raise OSError(errno.ENOMEM, f"only {written} of {size} bytes of encoded pictures found room in memory")
        return offsets

    def close(self) -> None:
        """Memory that is still referred to is let go of with its last tensor."""
        self._free.clear()
        while self._files:
            os.close(self._files.pop())


class _Decoder:
    """One of the processes: its pictures, and the batches that it has seen."""

    def __init__(self, augmentation: Augmentation, cache_mb: int) -> None:
        self._pictures = Pictures(augmentation, cache_mb)
        self._batches: dict[Place, tuple[int, Tensor]] = {}

    def make(self, share: Share) -> None:
        file, images_OCHW = self._batch(share.batch)
        pictures = [one.picture._replace(image=os.pread(file, one.length, one.offset)) for one in share.portions]
        images = [images_OCHW[one.row] for one in share.portions]
        self._pictures.write(pictures, torch.from_numpy(share.draws_ON), images)

    def _batch(self, place: Place) -> tuple[int, Tensor]:
        """The file of a batch, and what is in it; both stay open as long as this process lives."""
        if place not in self._batches:
            file = os.open(place.path, os.O_RDWR)
            pixels = np.frombuffer(mmap.mmap(file, place.size), np.uint8)
            self._batches[place] = file, torch.from_numpy(pixels.reshape(place.shape))
        return self._batches[place]


_decoder: _Decoder  # of this process, if it is one of them


def _begin(augmentation: Augmentation, cache_mb: int) -> None:
    global _decoder
    torch.set_num_threads(1)
    gc.freeze()  # what was imported is no garbage
    _decoder = _Decoder(augmentation, cache_mb)


def _make(share: Share) -> None:
    _decoder.make(share)
