"""FSDP2 for the encoder: a rank keeps its share of each weight, and a block is put together while it computes.

Embeddings, projections and the temperature stay whole on every rank: they are used outside of any block. So do routers: their
gradients come from the auxiliary loss, too, past the output on which FSDP waits for a block's backward pass. Experts that are
divided among owners (limoe/model/across.py) are in parts already.
"""

from __future__ import annotations

from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from limoe.model.encoder import Encoder
from limoe.model.experts import Experts
from limoe.model.router import Router
from limoe.world import World


def shard_encoder(encoder: Encoder, world: World) -> None:
    """Divide the encoder's dense weights over all ranks of `world`, in place. Gradients become sums over them, not means."""
    mesh = init_device_mesh(encoder.norm.weight.device.type, (world.size,))
    ignored = {p for module in encoder.modules() if _stays(module) for p in module.parameters()}
    for module in (*encoder.blocks, encoder):
        fully_shard(module, mesh=mesh, ignored_params=ignored)
        assert isinstance(module, FSDPModule)
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # gloo and NCCL alike


def _stays(module: nn.Module) -> bool:
    return isinstance(module, Router) or (isinstance(module, Experts) and module.owners.size > 1)
