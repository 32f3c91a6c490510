"""Averaged weights: an exponential moving average over the steps of a training (EMA)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

STEPS = "steps"  # beside the parameters' names in a checkpoint


class Ema:
    """The mean of the model's parameters over all steps, in which a step counts `decay` times as much as the one after it.

    The weights that training started from do not enter: after the first step the mean is that step's weights. What routers keep
    in buffers (the bias of loss-free balancing, the thresholds of expert choice) is not averaged: the mean goes with their
    current values, which are moving averages or sums over steps themselves.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._weights = dict(model.named_parameters())
        self._steps = torch.zeros((), dtype=torch.float64, device=next(model.parameters()).device)
        self._means = {name: weight.detach().clone() for name, weight in self._weights.items()}

    @torch.no_grad()
    def update(self, spoilt: Tensor) -> None:
        """Take in the model's weights, once a step; nothing where `spoilt` (a bool scalar on the device): it was left out."""
        self._steps += ~spoilt
        share = torch.where(spoilt, 0, (1 - self.decay) / (1 - self.decay**self._steps))
        for name, mean in self._means.items():
            mean.lerp_(self._weights[name], share.to(mean.dtype))

    def state_dict(self) -> dict[str, Tensor]:
        """The means by the parameters' names, and over how many steps they are."""
        return {**self._means, STEPS: self._steps}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of `state_dict`."""
        self._steps.copy_(state[STEPS])
        for name, mean in self._means.items():
            mean.copy_(state[name])
