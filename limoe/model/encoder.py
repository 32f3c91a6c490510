"""The pre-LN Transformer encoder over the token stream; some of its blocks may hold a mixture of experts instead of the MLP.

Axes: T rows of the stream, D width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from limoe.config import MoeParams, TowerParams
from limoe.model.attention import Attention
from limoe.model.experts import Experts
from limoe.model.router import Draws, NoiseKey, Routing, make_router
from limoe.model.tokens import Layout
from limoe.placement import moe_layers


class Mlp(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x_TD: Tensor) -> Tensor:
        """(T, D) -> (T, D)."""
        y_TD: Tensor = self.down(F.gelu(self.up(x_TD)))
        return y_TD


class MoeMlp(nn.Module):
    """A router and its experts. A row that is dropped comes out as zero: only the residual goes on."""

    def __init__(self, width: int, hidden: int, moe: MoeParams, layer: int) -> None:
        super().__init__()
        self.router = make_router(width, moe, layer)
        self.experts = Experts(moe.experts, width, hidden, moe)

    def forward(self, x_TD: Tensor, layout: Layout, draws: Draws | None) -> tuple[Tensor, Routing]:
        """(T, D) -> (T, D), and what the router decided."""
        routing = self.router(x_TD, layout, draws)
        return self.experts(x_TD, routing), routing


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); the MLP is dense, or sparse if `moe` is given."""

    def __init__(self, tower: TowerParams, moe: MoeParams | None, layer: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(tower.width)
        self.attention = Attention(tower.width, tower.heads)
        self.norm2 = nn.LayerNorm(tower.width)
        self.mlp = Mlp(tower.width, tower.hidden) if moe is None else MoeMlp(tower.width, tower.hidden, moe, layer)

    def forward(self, x_TD: Tensor, layout: Layout, draws: Draws | None) -> tuple[Tensor, Routing | None]:
        """(T, D) -> (T, D), and the routing if the block is sparse."""
        x_TD = x_TD + self.attention(self.norm1(x_TD), layout)
        if isinstance(self.mlp, MoeMlp):
            y_TD, routing = self.mlp(self.norm2(x_TD), layout, draws)
            return x_TD + y_TD, routing
        return x_TD + self.mlp(self.norm2(x_TD)), None


class Encoder(nn.Module):
    """`depth` blocks and a final norm. recomputes: whether a block's activations are computed again when gradients need them."""

    recomputes = False

    def __init__(self, tower: TowerParams, moe: MoeParams | None) -> None:
        super().__init__()
        self.sparse, self.experts = (moe_layers(tower.depth, moe.blocks), moe.experts) if moe is not None else ([], 0)
        self.blocks = nn.ModuleList(Block(tower, moe if i in self.sparse else None, i) for i in range(tower.depth))
        self.norm = nn.LayerNorm(tower.width)

    def forward(self, x_TD: Tensor, layout: Layout, noise: NoiseKey | None) -> tuple[Tensor, dict[int, Routing]]:
        """(T, D) -> (T, D), and the routing of each sparse block."""
        routings: dict[int, Routing] = {}
        for index, block in enumerate(self.blocks):
            draws = None
            if self.training and noise is not None and index in self.sparse:  # drawn out here: a block compiles as a whole
                draws = noise.draw(layout, index, self.experts)
            if self.recomputes:
                x_TD, routing = checkpoint(block, x_TD, layout, draws, use_reentrant=False, preserve_rng_state=False)
            else:
                x_TD, routing = block(x_TD, layout, draws)
            if routing is not None:
                routings[index] = routing
        return self.norm(x_TD), routings
