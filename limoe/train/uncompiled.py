"""Optimisers that torch.compile never meets.

torch guards against it in wrappers that import torch._dynamo when they are first called, as a training begins: two seconds, for
nothing where no optimiser is compiled.
"""

from __future__ import annotations

import inspect

import torch


class Uncompiled(torch.optim.Optimizer):
    """What an optimiser of ours has in common."""

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)


class AdamW(Uncompiled, torch.optim.AdamW):
    """torch's own."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))
