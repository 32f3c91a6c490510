"""Where a program would wait for its GPU, told on a machine that has none."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

Tensor = torch.Tensor
READS = {  # what cannot answer before the device has
    *(Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__),
    *(torch.equal, torch.allclose, Tensor.__contains__, Tensor.nonzero, torch.nonzero, torch.argwhere, torch.bincount),
    *(torch.unique, Tensor.unique, torch.masked_select, Tensor.masked_select),
}
INDEXED = {Tensor.__getitem__, Tensor.__setitem__}  # nor these, by a mask
REPEATED = {torch.repeat_interleave, Tensor.repeat_interleave}  # nor these by a tensor of unknown sum


class Waits(TorchFunctionMode):
    """`found`: what would have waited for a device within this context.

    Tensors count as on a device if they were made with `device=`, sent there by `to`, or computed from one that is, and if they
    are from before; until `cpu` brings them back.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._host: dict[int, Tensor] = {}  # by identity; held, so that no other tensor takes it over

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = _tensors((args, kwargs))
        on_host = all(id(tensor) in self._host for tensor in given) and (bool(given) or "device" not in kwargs)
        if not on_host and _waits(func, args, kwargs):
            self.found.append(func.__name__)
        out = func(*args, **kwargs)
        if func in (Tensor.to, Tensor.cpu):
            out = out.clone()  # here it would be the same tensor
        if func is Tensor.cpu or (on_host and func is not Tensor.to):
            self._host |= {id(tensor): tensor for tensor in _tensors(out)}
        return out


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _waits(func: Any, args: Any, kwargs: Any) -> bool:
    if func in INDEXED:
        return any(index.dtype == torch.bool for index in _tensors(args[1]))
    if func in REPEATED:
        return isinstance(args[1], Tensor) and "output_size" not in kwargs
    return func in READS
