"""Which parameter is what: the groups that are told apart, what decays, what is a matrix; and norms by group."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

GROUPS = {  # the first whose pattern a parameter's name contains
    "router": (".router.",),
    "experts": (".experts.",),
    "embeddings": ("patch.", "token.", "position", "embedding", "conv1."),
    "attention": (".attention.", ".attn."),
    "mlp": (".mlp.",),
}
OTHER = "other"  # norms, projections, the temperature and its bias
UNDECAYED = ("embedding", "token.weight", "position", "logit_scale", "norm", "ln_", "bias", "b1_EF", "b2_ED", "class")
EXPERT_ROWS = (".router.", "b1_EF", "b2_ED")  # E rows, each a vector of one expert


def group_of(name: str) -> str:
    """The group of the parameter with this name.

    >>> group_of("encoder.blocks.1.mlp.experts.b1_EF"), group_of("clip.visual.ln_pre.weight")
    ('experts', 'other')
    """
    return next((group for group, patterns in GROUPS.items() if any(pattern in name for pattern in patterns)), OTHER)


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay applies: to matrices (routers and experts included), not to embeddings, norms, biases, temperature."""
    return parameter.ndim >= 2 and not any(part in name for part in UNDECAYED)


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether the last two axes are those of a matrix, or of each of a stack; one row an expert makes vectors, not a matrix.

    >>> is_matrix("mlp.experts.w1_EDF", torch.zeros(4, 2, 8)), is_matrix("mlp.router.weight", torch.zeros(4, 2))
    (True, False)
    """
    return parameter.ndim >= 2 and not any(part in name for part in EXPERT_ROWS)


def norm_here(group: str, tensors: Iterable[Tensor]) -> Tensor:  # noqa: ARG001 (where all groups are whole)
    """The norm of all these tensors, which belong to parameters of this group."""
    return nn.utils.get_total_norm([*tensors])


class GroupNorms:
    """Norms of gradients and updates by group of parameters. Nothing is computed, or held, between calls.

    norm: of the whole of a group's tensors, of which only parts may be here.
    """

    def __init__(self, model: nn.Module, norm: Callable[[str, Iterable[Tensor]], Tensor] = norm_here) -> None:
        self._norm = norm
        self._groups: dict[str, list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            self._groups.setdefault(group_of(name), []).append(parameter)

    def gradients(self) -> dict[str, Tensor]:
        """`gradient/GROUP`: the norm of the group's gradient."""
        gradients = {g: [p.grad for p in group if p.grad is not None] for g, group in self._groups.items()}
        return {f"gradient/{g}": self._norm(g, tensors) for g, tensors in gradients.items()}

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
            ratios[f"update/{g}"] = self._norm(g, before[g]) / self._norm(g, group)
        return ratios
