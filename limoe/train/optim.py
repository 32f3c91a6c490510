"""AdamW, the learning rate as a function of the step, and the groups of parameters whose gradients and updates are told apart."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from limoe.config import TrainParams

GROUPS = {  # the first whose pattern a parameter's name contains
    "router": (".router.",),
    "experts": (".experts.",),
    "embeddings": ("patch.", "token.", "position", "embedding", "conv1."),
    "attention": (".attention.", ".attn."),
    "mlp": (".mlp.",),
}
OTHER = "other"  # norms, projections, the temperature and its bias
UNDECAYED = ("embedding", "token.weight", "position", "logit_scale", "norm", "ln_", "bias", "b1_EF", "b2_ED", "class")


def learning_rate(step: int, train: TrainParams) -> float:
    """The learning rate of step `step` (from 0 to steps - 1): linear warm-up to `lr`, then the schedule.

    cosine falls to 0 at the end. rsqrt is lr * sqrt(warmup / step) after the warm-up (V-MoE's schedule), with a linear decay to 0
    over the last `cooldown` steps.
    """
    if step < train.warmup:
        return train.lr * (step + 1) / train.warmup
    if train.schedule == "cosine":
        progress = (step - train.warmup) / max(1, train.steps - train.warmup)
        return train.lr * 0.5 * (1 + math.cos(math.pi * progress))
    decayed = train.lr * math.sqrt(max(1, train.warmup) / max(1, step))
    return decayed * min(1.0, (train.steps - step) / max(1, train.cooldown))


def make_optimizer(model: nn.Module, train: TrainParams) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices (routers and experts included), none on embeddings, norms, biases and the temperature."""
    named = list(model.named_parameters())
    decayed = [p for name, p in named if p.ndim >= 2 and not any(part in name for part in UNDECAYED)]
    chosen = {id(p) for p in decayed}
    rest = [p for _, p in named if id(p) not in chosen]
    groups = [{"params": decayed, "weight_decay": train.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=train.lr, betas=(train.beta1, train.beta2), fused=True)


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimiser's state as tensors named `PARAMETER/STATE`; empty before the first step."""
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`."""
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        name, _, kind = key.rpartition("/")
        parameter = parameters[name]
        optimizer.state[parameter][kind] = value if kind == "step" else value.to(parameter.device)


def group_of(name: str) -> str:
    """The group of the parameter with this name.

    >>> group_of("encoder.blocks.1.mlp.experts.b1_EF"), group_of("clip.visual.ln_pre.weight")
    ('experts', 'other')
    """
    return next((group for group, patterns in GROUPS.items() if any(pattern in name for pattern in patterns)), OTHER)


class GroupNorms:
    """Norms of gradients and updates by group of parameters. Nothing is computed, or held, between calls."""

    def __init__(self, model: nn.Module) -> None:
        self._groups: dict[str, list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            self._groups.setdefault(group_of(name), []).append(parameter)

    def gradients(self) -> dict[str, Tensor]:
        """`gradient/GROUP`: the norm of the group's gradient."""
        gradients = {g: [p.grad for p in group if p.grad is not None] for g, group in self._groups.items()}
        return {f"gradient/{g}": nn.utils.get_total_norm(tensors) for g, tensors in gradients.items()}

    def weights(self) -> dict[str, list[Tensor]]:
        """A copy of all weights, for `updates`; made when activations are gone, so that the peak of memory stays what it is."""
        return {g: [p.detach().clone() for p in group] for g, group in self._groups.items()}

    @torch.no_grad()
    def updates(self, before: dict[str, list[Tensor]]) -> dict[str, Tensor]:
        """`update/GROUP`: the norm of what has changed since `before` over the norm of the weights; `before` is used up."""
        ratios = {}
        for g, group in self._groups.items():
            for old, new in zip(before[g], group, strict=True):
                old.sub_(new)
            ratios[f"update/{g}"] = nn.utils.get_total_norm(before[g]) / nn.utils.get_total_norm(group)
        return ratios
