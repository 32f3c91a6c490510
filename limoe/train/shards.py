"""Weights of which a rank has a part: sums and norms of gradients over the ranks, and the whole of what is saved.

With expert parallelism (limoe/mesh.py) a rank has the stacks of its own experts. All that belongs to one of them (gradient,
optimiser's state, mean) has the experts along its first axis, and an expert's update looks at no other expert: so an optimiser
moves a part as it would have moved it in the whole. All ranks must make the same calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limoe.mesh import Mesh
from limoe.train.groups import group_of
from limoe.train.saver import Stateful

EXPERTS = "experts"  # the group of parameters that may be divided


class Shards:
    """How the weights of `model` lie on the ranks of `mesh`."""

    def __init__(self, model: nn.Module, mesh: Mesh) -> None:
        self.mesh = mesh
        self._parts, self._copies = (
            [p for name, p in model.named_parameters() if self.is_part(name) == divided] for divided in (True, False)
        )

    def is_part(self, name: str) -> bool:
        """Whether this rank has a part of the parameter with this name, or of what is remembered of it."""
        return self.mesh.owners.size > 1 and group_of(name) == EXPERTS

    def sum_gradients(self, others: Iterable[Tensor]) -> None:
        """Add up the ranks' gradients, each over those ranks that have the same weights, and `others` over all of them."""
        self.mesh.replicas.sum_(_gradients(self._parts))
        self.mesh.everyone.sum_([*_gradients(self._copies), *others])

    def clip(self, most: float) -> Tensor:
        """Scale the gradients down to the norm `most`; returned is their global norm, in which every expert counts once."""
        parts, copies = _gradients(self._parts), _gradients(self._copies)
        norm = nn.utils.get_total_norm(copies)
        if parts:
            norm = torch.hypot(norm, self.norm(EXPERTS, parts))
        nn.utils.clip_grads_with_norm_([*self._parts, *self._copies], most, norm)
        return norm

    def norm(self, group: str, tensors: list[Tensor]) -> Tensor:
        """Of the whole of these tensors, which belong to parameters of this group."""
        here = nn.utils.get_total_norm(tensors)
        divided = self.mesh.owners.size > 1 and group == EXPERTS
        return self.mesh.owners.total(here.square()).sqrt() if divided else here

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole ones by the same names, put together in the processor's memory; so on the main rank, others keep their parts."""
        return {name: self._together(tensor) if self._is_cut(name, tensor) else tensor for name, tensor in tensors.items()}

    def part(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What this rank has of whole tensors."""
        rank, size = self.mesh.owners.rank, self.mesh.owners.size
        return {
            name: tensor.chunk(size)[rank].clone() if self._is_cut(name, tensor) else tensor for name, tensor in tensors.items()
        }

    def _is_cut(self, name: str, tensor: Tensor) -> bool:
        return self.is_part(name) and tensor.ndim > 0  # a number is one of all experts

    def _together(self, tensor: Tensor) -> Tensor:
        together = self.mesh.owners.gather(tensor.detach())
        return together.cpu() if self.mesh.everyone.is_main else tensor


class Whole:
    """Something whose state is one of weights of which a rank may have a part; in a checkpoint they are whole."""

    def __init__(self, of: Stateful, shards: Shards) -> None:
        self.of, self.shards = of, shards

    def state_dict(self) -> dict[str, Tensor]:
        """Whole on the main rank."""
        return self.shards.whole(self.of.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`, on every rank."""
        self.of.load_state_dict(self.shards.part(state))


def _gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]
