"""A step's auxiliary loss over the whole batch, of which each rank has a share, in micro-batches."""

from __future__ import annotations

import torch
from losskit import GROUP, PAIRS, tower_of
from modelkit import batch, take

from limoe.config import AUX_TERMS
from limoe.losses.batchwide import batch_sums, loss_of_sums
from limoe.model.limoe import Output
from limoe.model.router import NoiseKey
from limoe.world import World

ALL_TERMS = dict.fromkeys(AUX_TERMS, 1.0)


def share(world: World, micro: int) -> dict[str, torch.Tensor]:
    """Value, reports and gradients, added up over the ranks; this one's pairs in so many micro-batches, embedded twice."""
    model, moe = tower_of(router="top-k", k=2, aux_scope="global", aux_weights=ALL_TERMS)
    size = PAIRS // world.size // micro
    firsts = range(world.rank * size * micro, (world.rank + 1) * size * micro, size)

    def embed(first: int) -> Output:
        part = take(batch(PAIRS, dtype=torch.float64), list(range(first, first + size)))
        return model(part, NoiseKey(7, 3, first // GROUP))

    def sums(output: Output) -> torch.Tensor:
        return batch_sums(output.routings, output.layout, moe)

    with torch.no_grad():
        sums_PLC = torch.cat([sums(embed(first)) for first in firsts]).requires_grad_()
    value, each = loss_of_sums(sums_PLC, moe, world)
    value.backward()
    for first, pull_LC in zip(firsts, sums_PLC.grad, strict=True):
        (sums(embed(first)) * pull_LC).sum().backward()
    found = {f"gradient/{name}": weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    found |= {name: term.detach() for name, term in each.items()} | {"value": value.detach()}
    world.sum_(found.values())
    return found
