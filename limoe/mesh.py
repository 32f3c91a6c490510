"""How the ranks of a training divide the experts among themselves.

With X-fold expert parallelism the P ranks stand in P / X rows of X. The ranks of a row, neighbours, hold different experts and
send each other tokens; the ranks of a column hold the same experts, whose gradients they add up. Every rank has pairs of its own,
and all share what is dense.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist

from limoe.world import ALONE, World


@dataclass(frozen=True)
class Mesh:
    """everyone: all ranks. owners: those of this one's row, among whom the experts are divided. replicas: of its column."""

    everyone: World = ALONE
    owners: World = ALONE
    replicas: World = ALONE

    @classmethod
    def of(cls, everyone: World, expert_parallel: int) -> Mesh:
        """All ranks must call it. expert_parallel: X, which divides their number (ValueError).

        Four ranks of which two own the experts: rows 0 1 and 2 3, columns 0 2 and 1 3.
        """
        if everyone.size % expert_parallel:
            raise ValueError(f"{everyone.size} ranks cannot stand in rows of {expert_parallel}")
        if expert_parallel == 1:
            return cls(everyone, ALONE, everyone)
        rows = [[*range(first, first + expert_parallel)] for first in range(0, everyone.size, expert_parallel)]
        columns = [[*column] for column in zip(*rows, strict=True)]
        return cls(everyone, _own(rows, everyone.rank), _own(columns, everyone.rank))


def _own(divisions: list[list[int]], rank: int) -> World:
    """This rank's group of a division of all ranks, each of which makes all of them."""
    groups = [(ranks, dist.new_group(ranks)) for ranks in divisions]
    ranks, group = next(made for made in groups if rank in made[0])
    assert isinstance(group, dist.ProcessGroup)  # and not the number that those outside of it get
    return World(ranks.index(rank), len(ranks), group)


ONE_PROCESS = Mesh()
