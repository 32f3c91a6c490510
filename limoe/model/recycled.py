"""Memory for large tensors that come anew with every step, such as the gradients of all experts and their hidden layer.

On a CPU such a tensor gets pages of its own from the kernel, which zeroes them as they are first written to, and gives them back
when it is let go of: with 300 MB that takes ten times as long as writing to pages that are there (LOG.md). On a GPU torch keeps
them itself.
"""

from __future__ import annotations

import math
import mmap
import os
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from threading import RLock

import numpy as np
import torch
from torch import Tensor

LEAST = 1 << 20  # bytes of a tensor that gets such memory: what is smaller malloc keeps, too
PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if os.name == "posix" else {}  # a fork's writes are its own
SLACK = 1 / 8  # of its bytes are to spare, so that a tensor which is a little larger finds room there


def lent(memory: mmap.mmap, give_back: Callable[[], None]) -> Tensor:
    """uint8, what is in `memory`; `give_back` is called once no tensor sees it any more."""
    numbers = np.frombuffer(memory, np.uint8)  # referred to by every tensor that sees the memory
    weakref.finalize(numbers, give_back).atexit = False
    return torch.from_numpy(numbers)


class Recycled:
    """Tensors whose memory is another one's once nothing refers to it any more; it stays the process's.

    What lies idle is at most three times what was ever in use at once.
    """

    def __init__(self, least: int = LEAST) -> None:
        """least: bytes of a tensor that gets such memory."""
        self._least = least
        self._free: list[mmap.mmap] = []  # the longest idle first
        self._used = self._most = 0  # bytes
        self._lock = RLock()  # not Lock: a tensor may be let go of by the garbage collector amid any of this

    def empty(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """As torch.empty, and from torch itself on another device, if it is small, or where memory ends: torch says so best."""
        size = math.prod(shape) * dtype.itemsize
        if device.type != "cpu" or size < self._least:
            return torch.empty(tuple(shape), dtype=dtype, device=device)
        try:
            memory = self._take(size)
        except OSError:
            return torch.empty(tuple(shape), dtype=dtype, device=device)
        return lent(memory, partial(self._give_back, memory))[:size].view(dtype).view(tuple(shape))

    def _take(self, size: int) -> mmap.mmap:
        """The smallest that is free and large enough, if it is not far too large; else a new one. OSError if memory ends."""
        with self._lock:
            fitting = [memory for memory in self._free if size <= len(memory) <= size * (1 + 2 * SLACK)]
            if fitting:
                memory = min(fitting, key=len)
                self._free.remove(memory)
            else:
                memory = self._new(size + int(size * SLACK))
            self._used += len(memory)
            self._most = max(self._most, self._used)
            return memory

    def _new(self, size: int) -> mmap.mmap:
        while sum(map(len, self._free)) > 2 * self._most:
            self._free.pop(0)
        try:
            return mmap.mmap(-1, size, **PRIVATE)
        except OSError:
            self._free.clear()
            return mmap.mmap(-1, size, **PRIVATE)

    def _give_back(self, memory: mmap.mmap) -> None:
        with self._lock:
            self._free.append(memory)
            self._used -= len(memory)

    def empty_like(self, tensor: Tensor) -> Tensor:
        """Of its shape, dtype and device; contiguous."""
        return self.empty(tensor.shape, tensor.dtype, tensor.device)


RECYCLED = Recycled()
