"""Weights of which a rank has a part: sums and norms of gradients over the ranks, and the whole of what is saved.

With expert parallelism (limoe/mesh.py) a rank has the stacks of its own experts. All that belongs to one of them (gradient,
optimiser's state, mean) has the experts along its first axis, and an expert's update looks at no other expert: so an optimiser
moves a part as it would have moved it in the whole. With FSDP2 (limoe/model/spread.py) a dense weight, and what belongs to it,
is a DTensor, and its gradient has been summed in the backward pass. All ranks must make the same calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limoe.dist import sharded
from limoe.mesh import Mesh
from limoe.train.groups import group_of
from limoe.train.saver import Stateful
from limoe.world import ALONE, World

EXPERTS = "experts"  # the group of parameters that may be divided among owners


class Holders:
    """How the weights of `model` lie on the ranks of `mesh`: whole on every one, or in parts on some of them."""

    def __init__(self, model: nn.Module, mesh: Mesh) -> None:
        self.mesh = mesh
        self._parameters = dict(model.named_parameters())
        self._by_holders: dict[World, list[nn.Parameter]] = {}
        for name, parameter in self._parameters.items():
            self._by_holders.setdefault(self._holders(group_of(name), parameter), []).append(parameter)

    def sum_gradients(self, others: Iterable[Tensor]) -> None:
        """Add up the ranks' gradients, each over those ranks that have the same weights, and `others` over all of them."""
        self.mesh.everyone.sum_([*_gradients(self._by_holders.get(ALONE, [])), *others])
        if self.mesh.owners.size > 1:
            self.mesh.replicas.sum_(_gradients(self._by_holders.get(self.mesh.owners, [])))

    def clip(self, most: float) -> Tensor:
        """Scale the gradients down to the norm `most`; returned is their global norm, in which every weight counts once."""
        norm = _norm({holders: _gradients(parameters) for holders, parameters in self._by_holders.items()})
        for parameters in self._by_holders.values():
            nn.utils.clip_grads_with_norm_(parameters, most, norm)
        return norm

    def norm(self, group: str, tensors: Iterable[Tensor]) -> Tensor:
        """Of the whole of these tensors, which belong to parameters of this group."""
        by_holders: dict[World, list[Tensor]] = {}
        for tensor in tensors:
            by_holders.setdefault(self._holders(group, tensor), []).append(tensor)
        return _norm(by_holders)

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole ones by the same names, put together in the processor's memory; so on the main rank, others keep their parts."""
        return {name: self._together(name, tensor) for name, tensor in tensors.items()}

    def part(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What this rank has of whole tensors; their names begin with those of parameters."""
        return {name: self._apart(name, tensor) for name, tensor in tensors.items()}

    def _holders(self, group: str, tensor: Tensor) -> World:
        """The ranks that together have all of a tensor that belongs to this group. A number is one of the whole."""
        if sharded(tensor):
            return self.mesh.everyone
        return self.mesh.owners if group == EXPERTS and tensor.ndim > 0 else ALONE

    def _together(self, name: str, tensor: Tensor) -> Tensor:
        holders = self._holders(group_of(name), tensor)
        if holders.size == 1:
            return tensor
        together = tensor.full_tensor() if sharded(tensor) else holders.gather(tensor.detach())
        return together.detach().cpu() if self.mesh.everyone.is_main else tensor

    def _apart(self, name: str, tensor: Tensor) -> Tensor:
        parameter = self._parameters.get(name.split("/")[0])
        if sharded(parameter) and tensor.ndim > 0:
            from torch.distributed.tensor import distribute_tensor

            here = tensor.to(parameter.device)
            return distribute_tensor(here, parameter.device_mesh, parameter.placements, src_data_rank=None)
        holders = self._holders(group_of(name), tensor)
        return tensor if holders.size == 1 else tensor.chunk(holders.size)[holders.rank].clone()


class Whole:
    """Something whose state is one of weights of which a rank may have a part; in a checkpoint they are whole."""

    def __init__(self, of: Stateful, holders: Holders) -> None:
        self.of, self.holders = of, holders

    def state_dict(self) -> dict[str, Tensor]:
        """Whole on the main rank."""
        return self.holders.whole(self.of.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`, on every rank."""
        self.of.load_state_dict(self.holders.part(state))


def _gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]


def _norm(by_holders: Mapping[World, list[Tensor]]) -> Tensor:
    """Over all of them, of which each world has a part on this rank."""
    norms = []
    for holders, tensors in by_holders.items():
        here = nn.utils.get_total_norm([tensor.to_local() if sharded(tensor) else tensor for tensor in tensors])
        norms.append(here if holders.size == 1 else holders.total(here.square()).sqrt())
    return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
