"""Other people's sparse layers, as they come from PyPI (the `bench` extra), at active FLOPs that are made equal or divided by.

Mixtral's block (transformers) visits one expert here; its experts have three matrices, so two thirds of the hidden width cost
what two matrices cost. `mixture-of-experts` and `st-moe-pytorch` visit two experts and cannot visit fewer: their time is halved
(`work` 2). The second one's experts have three matrices as well, which it corrects for itself. None of them promises equal bits
from run to run, so the training's deterministic algorithms are off while they run.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

import torch
from torch import Tensor, nn

from benchmarks.harness import Subject
from benchmarks.layers import Input

Forward = Callable[[Tensor], Tensor]  # (1, T, D) -> (1, T, D)
MIXTRAL_GROUPED = "Mixtral grouped_mm"
TOP_2 = ("mixture-of-experts", "st-moe-pytorch")


def mixtral(given: Input, implementation: str) -> tuple[nn.Module, Forward]:
    """transformers' Mixtral block: SwiGLU experts, gates renormalised, no capacity, no balancing loss."""
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    shape = given.shape
    config = MixtralConfig(
        hidden_size=shape.width,
        intermediate_size=shape.hidden * 2 // 3,
        num_local_experts=shape.experts,
        num_experts_per_tok=1,
        experts_implementation=implementation,
    )
    block = MixtralSparseMoeBlock(config)
    with torch.no_grad():
        for parameter in (block.experts.gate_up_proj, block.experts.down_proj):
            parameter.normal_(std=shape.width**-0.5)
        block.gate.weight.copy_(given.router_ED)
    return block, block


def mixture_of_experts(given: Input) -> tuple[nn.Module, Forward]:
    """Top-2 with one-hot dispatch; experts of two matrices, ReLU by default: GELU here, as everywhere else."""
    from mixture_of_experts import MoE

    shape = given.shape
    block = MoE(shape.width, num_experts=shape.experts, hidden_dim=shape.hidden, activation=nn.GELU)
    with torch.no_grad():
        block.gate.w_gating.copy_(given.router_ED.T)
    return block, lambda x: block(x)[0]


def st_moe(given: Input) -> tuple[nn.Module, Forward]:
    """Top-2 with one-hot dispatch; GEGLU experts of two thirds of the hidden width."""
    from st_moe_pytorch import MoE

    shape = given.shape
    block = MoE(dim=shape.width, num_experts=shape.experts, expert_hidden_mult=shape.hidden / shape.width)
    with torch.no_grad():
        block.gate.to_gates.weight.copy_(given.router_ED)
    return block, lambda x: block(x).outputs


PEERS: dict[str, tuple[str, Callable[[Input], tuple[nn.Module, Forward]]]] = {  # name -> distribution, builder
    MIXTRAL_GROUPED: ("transformers", lambda given: mixtral(given, "grouped_mm")),
    "Mixtral eager": ("transformers", lambda given: mixtral(given, "eager")),
    "mixture-of-experts": ("mixture-of-experts", mixture_of_experts),
    "st-moe-pytorch": ("st-moe-pytorch", st_moe),
}


def peer_subject(given: Input, name: str) -> Subject:
    """The peer of that name in training mode; ImportError where it is not installed."""
    module, forward = PEERS[name][1](given)
    module.to(given.x_TD.device).train()

    def run() -> None:
        torch.use_deterministic_algorithms(False)
        try:
            given.both_ways(lambda: forward(given.x_TD[None]))
        finally:
            torch.use_deterministic_algorithms(True, warn_only=given.x_TD.is_cuda)

    return given.subject(name, module, run)


def peer_work() -> dict[str, float]:
    """Active FLOPs a token as a multiple of the dense MLP's, by subject."""
    return dict.fromkeys(TOP_2, 2.0)


def peer_version(name: str) -> str:
    """The installed version of the peer's distribution."""
    return version(PEERS[name][0])
