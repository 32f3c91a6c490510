"""Memory for large tensors that come anew with every step, such as the gradients of all experts.

On a CPU such a tensor gets pages of its own from the kernel, which zeroes them as they are first written to, and gives them back
when it is let go of: with 300 MB that takes ten times as long as writing to pages that are there (LOG.md). On a GPU torch keeps
them itself.
"""

from __future__ import annotations

import mmap
import weakref
from collections import defaultdict, deque

import numpy as np
import torch
from torch import Tensor

LEAST = 32 << 20  # bytes: what is smaller malloc keeps, too (its M_MMAP_THRESHOLD goes up to this)


class Recycled:
    """Tensors whose memory is another one's, of as many bytes, once nothing refers to it any more; it stays the process's."""

    def __init__(self, least: int = LEAST) -> None:
        """least: bytes of a tensor that gets such memory."""
        self._least = least
        self._free: defaultdict[int, deque[mmap.mmap]] = defaultdict(deque)

    def empty_like(self, tensor: Tensor) -> Tensor:
        """As torch.empty_like, contiguous; from torch itself if `tensor` is on another device or small."""
        size = tensor.nbytes
        if tensor.device.type != "cpu" or size < self._least:
            return torch.empty_like(tensor, memory_format=torch.contiguous_format)
        free = self._free[size]
        try:
            memory = free.popleft()
        except IndexError:
            memory = mmap.mmap(-1, size)
        numbers = np.frombuffer(memory, np.uint8)  # referred to by every tensor that sees the memory
        weakref.finalize(numbers, free.append, memory).atexit = False
        return torch.from_numpy(numbers).view(tensor.dtype).view(tensor.shape)


RECYCLED = Recycled()
