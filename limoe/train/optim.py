"""The optimisers that `train.optimizer` names, over groups of parameters; and their state as named tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limoe.config import TrainParams
from limoe.dist import sharded
from limoe.train.adafactor import Adafactor
from limoe.train.groups import decays, group_of, is_matrix
from limoe.train.muon import Muon
from limoe.train.uncompiled import AdamW

ORTHOGONAL = ("attention", "mlp", "experts")  # groups whose matrices Muon moves: those between hidden layers
Named = list[tuple[str, nn.Parameter]]


class Optimizers:
    """Optimisers with parameters of their own, as one. A group of theirs has an `lr_scale`, for whoever sets its `lr`.

    Each must be able to leave a step out on the device's own word (ValueError). torch made a way for it, for loss scaling: such
    an optimiser has `_step_supports_amp_scaling`, and looks at its attribute `found_inf`.
    """

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        if unable := [part for part in parts if not getattr(part, "_step_supports_amp_scaling", False)]:
            raise ValueError(f"{type(unable[0]).__name__} cannot leave a step out without the host's waiting for the device")
        self._parts = parts
        self._home = {p: part for part in parts for group in part.param_groups for p in group["params"]}

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all of them."""
        return [group for part in self._parts for group in part.param_groups]

    def state_of(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """What is remembered of this parameter; empty before the first step."""
        state: dict[str, Tensor] = self._home[parameter].state[parameter]
        return state

    def step(self, spoilt: Tensor) -> None:
        """Move all parameters; leave everything as it is where `spoilt` (a bool scalar on the device) is true."""
        for part in self._parts:
            part.found_inf = spoilt.float()  # type: ignore[attr-defined]
            part.step()


def make_optimizer(model: nn.Module, train: TrainParams) -> Optimizers:
    """The optimiser that `train` names. Muon leaves to AdamW what is no matrix between hidden layers."""
    named = list(model.named_parameters())
    if train.optimizer == "adafactor":
        matrices, others = _divide(named, is_matrix)
        groups = [*_groups(matrices, train, factored=True), *_groups(others, train, factored=False)]
        return Optimizers(Adafactor(groups, train.lr, (train.beta1, train.beta2)))
    if train.optimizer == "muon":
        matrices, others = _divide(named, lambda name, p: group_of(name) in ORTHOGONAL and is_matrix(name, p))
        return Optimizers(Muon(_groups(matrices, train), train.lr), _adamw(others, train))
    return Optimizers(_adamw(named, train))


def _adamw(named: Named, train: TrainParams) -> AdamW:
    return AdamW(_groups(named, train), lr=train.lr, betas=(train.beta1, train.beta2), fused=True)


def _divide(named: Named, takes: Callable[[str, Tensor], bool]) -> tuple[Named, Named]:
    """Those that `takes` accepts, and the others."""
    return [pair for pair in named if takes(*pair)], [pair for pair in named if not takes(*pair)]


def _groups(named: Named, train: TrainParams, **options: Any) -> list[dict[str, Any]]:
    """One group for each learning rate and weight decay that there is; a fused step takes whole tensors, or shards, not both."""
    scales = train.lr_scale.model_dump()
    found: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for name, parameter in named:
        rates = scales.get(group_of(name), 1.0), train.weight_decay if decays(name, parameter) else 0.0
        found.setdefault((*rates, sharded(parameter)), []).append(parameter)
    return [
        {"params": parameters, "lr_scale": scale, "weight_decay": decay, **options}
        for (scale, decay, _), parameters in found.items()
    ]


def optimizer_tensors(optimizer: Optimizers, model: nn.Module) -> dict[str, Tensor]:
    """The optimiser's state as tensors named `PARAMETER/STATE`; empty before the first step."""
    return {f"{name}/{key}": value for name, p in model.named_parameters() for key, value in optimizer.state_of(p).items()}


def load_optimizer_tensors(optimizer: Optimizers, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`: nothing stays of what it had."""
    parameters = dict(model.named_parameters())
    for parameter in parameters.values():
        optimizer.state_of(parameter).clear()
    for key, value in tensors.items():
        name, _, kind = key.rpartition("/")
        optimizer.state_of(parameters[name])[kind] = value.to(parameters[name].device)
