"""What tests have several ranks do: functions that the ranks' processes can import (pytest's own modules they cannot)."""

from __future__ import annotations

from typing import Any

import torch

from limoe import world as module
from limoe.world import World


def everything(world: World) -> dict[str, Any]:
    """All calls of a World once, by two ranks."""
    module.BUCKET_BYTES = 16
    mine_RV = torch.tensor([[1.0, 2.0]], dtype=torch.float64) * (world.rank + 1)
    leaf_RV = mine_RV.clone().requires_grad_()
    gathered_BV = world.gather(leaf_RV)
    weights_BV = torch.tensor([[1.0, 10.0], [100.0, 1000.0]], dtype=torch.float64) * (world.rank + 1)
    (gathered_BV * weights_BV).sum().backward()
    sums = [torch.full((3,), world.rank + 1.0), torch.tensor(world.rank), torch.ones(2), torch.ones(2, 2).T, torch.ones(1)]
    world.sum_(sums)
    tops = torch.tensor([world.rank, -world.rank])
    world.max_(tops)
    world.barrier()
    agreed = [world.most(world.rank), world.agree(world.rank), world.agree(world.rank == 0), world.most(True)]
    told = world.collect({"rank": world.rank, "name": "ö" * (1 + world.rank)})
    return {"gathered": gathered_BV.detach(), "grad": leaf_RV.grad, "sums": sums, "tops": tops, "agreed": agreed, "told": told}
