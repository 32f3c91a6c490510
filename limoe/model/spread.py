"""What a rank keeps of a model's weights: with expert parallelism its own experts, with FSDP2 its share of each dense weight.

FSDP2 is for the encoder, where a block is put together while it computes.

Embeddings, projections and the temperature stay whole on every rank: they are used outside of any block. So do routers: their
gradients come from the auxiliary loss, too, past the output on which FSDP waits for a block's backward pass. Experts that are
divided among owners (limoe/model/across.py) are in parts already.
"""

from __future__ import annotations

from torch import nn

from limoe.config import MachineParams
from limoe.mesh import Mesh
from limoe.model.encoder import Encoder
from limoe.model.experts import Experts
from limoe.model.limoe import Limoe
from limoe.model.router import Router
from limoe.world import World


def shard_encoder(encoder: Encoder, world: World) -> None:
    """Divide the encoder's dense weights over all ranks of `world`, in place. Gradients become sums over them, not means."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard  # half a second, for those who divide weights

    mesh = init_device_mesh(encoder.norm.weight.device.type, (world.size,))
    ignored = {p for module in encoder.modules() if _stays(module) for p in module.parameters()}
    for module in (*encoder.blocks, encoder):
        fully_shard(module, mesh=mesh, ignored_params=ignored)
        assert isinstance(module, FSDPModule)
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # gloo and NCCL alike


def spread(model: nn.Module, machine: MachineParams, world: World) -> Mesh:
    """Leave on this rank what it is to have of `model`, as `machine` says; all ranks have built it whole, and equal.

    A model without experts has none to divide; one that is no Limoe stays whole.
    """
    if not isinstance(model, Limoe):
        return Mesh.of(world, 1)
    mesh = Mesh.of(world, machine.expert_parallel if model.encoder.sparse else 1)
    model.divide_experts(mesh.owners)
    if machine.shard_weights and world.size > 1:
        shard_encoder(model.encoder, world)
    return mesh


def _stays(module: nn.Module) -> bool:
    return isinstance(module, Router) or (isinstance(module, Experts) and module.owners.size > 1)
