"""Where this process computes, in which precision, and how what it has computed is read."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor

from limoe.errors import UserError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of that name (`machine.device`); `auto` is a GPU if there is one. UserError if it is not there.

    local_rank: which of this machine's processes asks; where no GPU is named, each has its own.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and local_rank:
        name = f"cuda:{local_rank}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device {name!r}: no device of that kind; use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices; use auto or cpu")
    return device


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype that `train.precision` names; `auto` is bfloat16 where the processor multiplies matrices in it, else float32."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if has_bf16 else torch.float32


def be_deterministic(device: torch.device) -> None:
    """Deterministic algorithms alone; on a GPU a warning where there is none.

    torch.use_deterministic_algorithms would tell inductor, too, whose import takes two seconds: see Limoe.compile_blocks.
    """
    torch.set_deterministic_debug_mode("warn" if device.type == "cuda" else "error")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs 10%, and nothing reads it


def sharded(tensor: Tensor | None) -> TypeGuard[DTensor]:
    """Whether this rank has a part of it, by FSDP; where that was not imported, which takes half a second, nothing is."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def fetch(*groups: Mapping[Any, Tensor]) -> list[dict[Any, Tensor]]:
    """The same mappings with their tensors on the CPU, all brought over in one transfer as float64 (whole numbers below 2^53)."""
    flat = [tensor.detach().double().flatten() for group in groups for tensor in group.values()]
    brought = iter(torch.split(torch.cat(flat).cpu(), [len(part) for part in flat]) if flat else ())
    return [{name: next(brought).view(tensor.shape) for name, tensor in group.items()} for group in groups]


@contextmanager
def threads(count: int) -> Iterator[None]:
    """torch on `count` threads for the body."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
