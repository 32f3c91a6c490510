"""The processes of one training, started by torchrun: who this one is, and what all of them do together.

Axes: R pairs of a rank, B = R * size pairs of all ranks, V embedding width.

With one process nothing here touches torch.distributed. With several, every rank must make the same calls in the same order. A
group carries tensors of a GPU by NCCL and those of the processor by gloo, so that whole numbers which the host decides with are
agreed on without waiting for a GPU.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

BUCKET_BYTES = 64 << 20  # of tensors that are summed in one call: few calls, and little memory beside the tensors


@dataclass(frozen=True)
class World:
    """Ranks 0 to size - 1. group: None for all processes of torchrun. Every rank has equally many pairs."""

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def rows(self, own: int) -> slice:
        """Where this rank's rows, so many on each, lie among those of all ranks."""
        return slice(self.rank * own, (self.rank + 1) * own)

    def gather(self, x_RV: Tensor) -> Tensor:
        """(B, V): all ranks' rows, in the ranks' order. A rank's gradient is the sum of all ranks' with respect to its rows."""
        gathered: Tensor = x_RV if self.size == 1 else _Gather.apply(x_RV, self)
        return gathered

    def total(self, x: Tensor) -> Tensor:
        """The sum over the ranks, which have the same shape. A rank's gradient is the sum of all ranks' with respect to it."""
        total: Tensor = x if self.size == 1 else _Total.apply(x, self)
        return total

    @torch.no_grad()
    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over the ranks, which have the same shapes; all ranks get the same bits."""
        if self.size == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.flatten() for tensor in bucket])
            dist.all_reduce(flat, group=self.group)
            for tensor, part in zip(bucket, torch.split(flat, [tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def max_(self, tensor: Tensor) -> None:
        """Replace each element by its maximum over the ranks."""
        if self.size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.group)

    def most(self, value: int) -> int:
        """The largest of all ranks' whole numbers (or truths)."""
        agreed = torch.tensor(int(value))
        self.max_(agreed)
        return int(agreed)

    def agree(self, value: int) -> int:
        """The smallest of all ranks' whole numbers (or truths: whether they are all true)."""
        return -self.most(-int(value))

    def collect(self, value: Any) -> list[Any]:
        """Every rank's small JSON-able value, in the ranks' order."""
        if self.size == 1:
            return [value]
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        padded = torch.full((self.most(len(text)),), ord(" "), dtype=torch.uint8)
        padded[: len(text)] = text
        return [json.loads(bytes(row.tolist())) for row in self.gather(padded).view(self.size, -1)]

    def barrier(self) -> None:
        """Until every rank has come here."""
        self.most(0)


ALONE = World()


@contextmanager
def open_world(device: torch.device) -> Iterator[World]:
    """All processes of this torchrun, or ALONE if it did not start this one. device: the one that this rank computes on."""
    if not under_torchrun():
        yield ALONE
        return
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    yield World(dist.get_rank(), dist.get_world_size())
    dist.destroy_process_group()  # not after a failure: the others may be in the middle of something, which NCCL would wait for


def under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def is_first() -> bool:
    """Whether this process is the first of its torchrun, or the only one."""
    return not under_torchrun() or os.environ["RANK"] == "0"


def local_rank() -> int:
    """Which of this machine's processes this one is; its GPU has the same number."""
    return int(os.environ["LOCAL_RANK"]) if under_torchrun() else 0


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_RV: Tensor, world: World) -> Tensor:
        ctx.world = world
        pieces = [torch.empty_like(x_RV, memory_format=torch.contiguous_format) for _ in range(world.size)]
        dist.all_gather(pieces, x_RV.contiguous(), group=world.group)
        return torch.cat(pieces)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BV: Tensor) -> tuple[Tensor, None]:
        pieces = list(grad_BV.contiguous().chunk(ctx.world.size))
        grad_RV = torch.empty_like(pieces[0])
        dist.reduce_scatter(grad_RV, pieces, group=ctx.world.group)
        return grad_RV, None


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, world: World) -> Tensor:
        ctx.world = world
        return _summed(x, world)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _summed(grad, ctx.world), None


def _summed(x: Tensor, world: World) -> Tensor:
    x = x.clone(memory_format=torch.contiguous_format)
    world.sum_([x])
    return x


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors, by kind, in lists of at most BUCKET_BYTES (or one tensor)."""
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for kind in kinds.values():
        bucket, size = [kind[0]], kind[0].nbytes
        for tensor in kind[1:]:
            if size + tensor.nbytes > BUCKET_BYTES:
                yield bucket
                bucket, size = [], 0
            bucket.append(tensor)
            size += tensor.nbytes
        yield bucket
