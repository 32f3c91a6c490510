"""Which blocks of a tower hold experts. It stands beside `config`, which refuses what no tower can have."""

from __future__ import annotations

import re
from collections.abc import Sequence

EVERY_SECOND = "every-second"
LAST = re.compile(r"last-([1-9]\d*)")
ALLOWED = f"{EVERY_SECOND}, last-N, or a list of blocks counted from 0"


def is_placement(blocks: object) -> bool:
    """Whether this says where experts go, in a tower of whatever depth."""
    if isinstance(blocks, str):
        return blocks == EVERY_SECOND or LAST.fullmatch(blocks) is not None
    return isinstance(blocks, list | tuple) and all(type(block) is int for block in blocks)


def moe_layers(depth: int, blocks: str | Sequence[int]) -> list[int]:
    """The sparse blocks of a tower of `depth` blocks, counted from 0, in ascending order.

    blocks: `every-second` (the odd ones; LIMoE, section 2), `last-N` (the last N) or the blocks themselves in any order.
    ValueError if it is none of these, names no block, one twice, or one that does not exist.

    >>> moe_layers(6, "every-second"), moe_layers(6, "last-2"), moe_layers(6, (5, 0))
    ([1, 3, 5], [4, 5], [0, 5])
    """
    if blocks == EVERY_SECOND:
        return list(range(1, depth, 2))
    if isinstance(blocks, str):
        last = LAST.fullmatch(blocks)
        if last is None:
            raise ValueError(
                f"{blocks!r} is no placement; allowed are {EVERY_SECOND}, last-N, or a list of blocks counted from 0"
            )
        if int(last[1]) > depth:
            raise ValueError(f"{blocks} asks for more blocks than the tower's depth ({depth})")
        return list(range(depth - int(last[1]), depth))
    if not blocks:
        raise ValueError("the list of blocks is empty; name a block that holds experts (the contestant dense has none)")
    if absent := [block for block in blocks if not 0 <= block < depth]:
        raise ValueError(f"block {absent[0]} does not exist: a tower of depth {depth} has the blocks 0 to {depth - 1}")
    if twice := [block for block in blocks if blocks.count(block) > 1]:
        raise ValueError(f"block {twice[0]} is named twice")
    return sorted(blocks)
