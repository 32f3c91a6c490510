"""LIMoE: one tower for pictures and text (arXiv 2206.02770); without experts it is the dense one-tower baseline.

Axes: B pairs, P patches an image, N text tokens of the batch, L longest caption, T rows of the stream, D width, V embedding
width, C colour channels, H height, W width in px.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limoe.config import MoeParams, TowerParams
from limoe.model.encoder import Block, Encoder, MoeMlp
from limoe.model.experts import Experts
from limoe.model.router import NoiseKey, Router, Routing
from limoe.model.tokens import PAD_ID, Layout, PairBatch, flat_ids
from limoe.world import World

COLOURS = 3
EMBEDDING_STD = 0.02
MOST_GRAPHS = 64  # of compiled blocks
LONGEST_MULTIPLE = 8  # of the longest caption, where shapes are to recur: two or three shapes for attention


@dataclass(frozen=True)
class Output:
    """Normalised float32 embeddings image_BV and text_BV, and what the routers decided: by block index, empty if dense."""

    image_BV: Tensor
    text_BV: Tensor
    layout: Layout | None
    routings: dict[int, Routing]


class Limoe(nn.Module):
    """The tower, a linear projection for each modality, and the learned temperature (stored as the log of the logit scale).

    moe: None for the dense tower. bucket: a batch's text is padded to a multiple of so many tokens, which changes no result.
    init_bias: where the learned `logit_bias` on all logits starts; None, and no such parameter, unless the loss is sigmoid.
    """

    def __init__(
        self,
        tower: TowerParams,
        moe: MoeParams | None,
        vocab_size: int,
        init_scale: float = 10.0,
        bucket: int = 1,
        init_bias: float | None = None,
    ) -> None:
        super().__init__()
        self.tower = tower
        self.group_pairs = 0 if moe is None else moe.group_pairs
        self.bucket = bucket
        self.patch = nn.Linear(COLOURS * tower.patch_size**2, tower.width)
        self.token = nn.Embedding(vocab_size, tower.width)
        self.image_position = nn.Parameter(torch.empty(tower.image_tokens, tower.width))
        self.text_position = nn.Parameter(torch.empty(tower.text_length, tower.width))
        self.encoder = Encoder(tower, moe)
        self.image_projection = nn.Linear(tower.width, tower.embed_dim, bias=False)
        self.text_projection = nn.Linear(tower.width, tower.embed_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(init_scale)))
        self.logit_bias = None if init_bias is None else nn.Parameter(torch.tensor(init_bias))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Embeddings N(0, 0.02^2), matrices N(0, 1 / inputs), those that write to the residual less (experts and routers, which
        drew themselves, included)."""
        residual = (2 * self.tower.depth) ** -0.5  # each of the 2 * depth additions brings its share of the variance
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for name, parameter in self.named_parameters():
            if name.endswith(("attention.out.weight", "mlp.down.weight", "w2_EFD")):
                parameter.data.mul_(residual)
        for table in (self.token.weight, self.image_position, self.text_position):
            nn.init.normal_(table, std=EMBEDDING_STD)

    def forward(self, batch: PairBatch, noise: NoiseKey | None = None) -> Output:
        """Embed a batch of pairs, both modalities in one stream. A LIMoE in training needs `noise`."""
        images = len(batch.images_BCHW)
        text_shape = (self.bucket, LONGEST_MULTIPLE if self.bucket > 1 else 1)
        layout = Layout.of(images, self.tower.image_tokens, batch.lengths_B, batch.ids_N.device, self.group_pairs, text_shape)
        ids_N = F.pad(batch.ids_N, (0, layout.text_rows - len(batch.ids_N)), value=PAD_ID)
        x_TD = torch.cat([self.embed_images(batch.images_BCHW), self.embed_text(ids_N, layout)])
        x_TD, routings = self.encoder(x_TD, layout, noise)
        image_rows, text_rows = layout.split(x_TD)
        return Output(self.pool_images(image_rows, layout), self.pool_text(text_rows, layout), layout, routings)

    def divide_experts(self, owners: World) -> None:
        """Keep the experts of this rank alone, in every sparse block: their number must be a multiple of the owners'."""
        for module in self.modules():
            if isinstance(module, Experts):
                module.divide(owners)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Hold what enters each block for the backward pass, and compute the rest of it again (open_clip's name for it)."""
        self.encoder.recomputes = enable

    def compile_blocks(self, backend: str | Callable[..., Any] = "inductor") -> None:
        """Put every block through torch.compile (with this backend of it), at its first call.

        A block is one graph with the expert kernels `slots` and, in bf16, `grouped`. Sizes are static: there is a graph for each
        shape of the stream, for dense and for sparse blocks. With a bucket few shapes come, again and again. All graphs count
        towards one limit, past which torch runs what is new without compiling it: eight, which five shapes would exceed.
        """
        torch._dynamo.config.recompile_limit = MOST_GRAPHS
        torch._inductor.config.deterministic = torch.are_deterministic_algorithms_enabled()
        for block in self.encoder.blocks:
            block.compile(dynamic=False, backend=backend)

    def observe_routers(self, output: Output) -> dict[int, Tensor]:
        """What the routers need to know of an output to move their balancing state, by block; sums over parts of a batch."""
        assert output.layout is not None
        return {layer: self._router(layer).observe(routing, output.layout) for layer, routing in output.routings.items()}

    def adjust_routers(self, observed: dict[int, Tensor]) -> None:
        """Move the routers' balancing state, if they have any: once an optimiser step, by all that was observed in it."""
        for layer, sums in observed.items():
            self._router(layer).adjust(sums)

    def _router(self, layer: int) -> Router:
        return cast(MoeMlp, cast(Block, self.encoder.blocks[layer]).mlp).router

    def encode_image(self, images_BCHW: Tensor, normalize: bool = False) -> Tensor:
        """float32 (B, V) embeddings of normalised images, as open_clip's method of this name; B may be 0."""
        if not len(images_BCHW):
            return images_BCHW.new_empty((0, self.tower.embed_dim), dtype=torch.float32)
        layout = Layout.of(len(images_BCHW), self.tower.image_tokens, None, images_BCHW.device)
        x_TD, _ = self.encoder(self.embed_images(images_BCHW), layout, None)
        return self.pool_images(x_TD, layout, normalize)

    def image_features(self, images_BCHW: Tensor) -> Tensor:
        """float32 (B, D): what the images' embeddings are projected from; B may be 0."""
        if not len(images_BCHW):
            return images_BCHW.new_empty((0, self.tower.width), dtype=torch.float32)
        layout = Layout.of(len(images_BCHW), self.tower.image_tokens, None, images_BCHW.device)
        x_TD, _ = self.encoder(self.embed_images(images_BCHW), layout, None)
        return _mean_patch(x_TD, layout).float()

    def encode_text(self, ids_BL: Tensor, normalize: bool = False) -> Tensor:
        """float32 (B, V) embeddings of captions as padded token ids (int64), as open_clip's method of this name; B may be 0."""
        if not len(ids_BL):
            return ids_BL.new_empty((0, self.tower.embed_dim), dtype=torch.float32)
        ids_N, lengths_B = flat_ids(ids_BL)
        if not lengths_B.all():
            raise ValueError("ids: a row of padding alone is no caption, which ends with end of text")
        layout = Layout.of(0, self.tower.image_tokens, lengths_B, ids_BL.device)
        x_TD, _ = self.encoder(self.embed_text(ids_N, layout), layout, None)
        return self.pool_text(x_TD, layout, normalize)

    def embed_images(self, images_BCHW: Tensor) -> Tensor:
        """(B * P, D): patches, row by row, with their positions. ValueError for any other shape than (B, 3, size, size)."""
        side, grid = self.tower.patch_size, self.tower.image_size // self.tower.patch_size
        if images_BCHW.shape[1:] != (COLOURS, self.tower.image_size, self.tower.image_size):
            size = self.tower.image_size
            raise ValueError(f"images of shape {tuple(images_BCHW.shape)}: this model takes (B, {COLOURS}, {size}, {size})")
        images = len(images_BCHW)
        cut = images_BCHW.reshape(images, COLOURS, grid, side, grid, side).permute(
            0, 2, 4, 1, 3, 5
        )  # F.unfold takes twice as long
        x_BPD: Tensor = self.patch(cut.reshape(images, grid * grid, COLOURS * side * side)) + self.image_position
        return x_BPD.flatten(0, 1)

    def embed_text(self, ids_N: Tensor, layout: Layout) -> Tensor:
        """(N, D): tokens with their positions in their captions."""
        assert layout.text is not None
        x_ND: Tensor = self.token(ids_N) + F.embedding(layout.text.position_N, self.text_position)
        return x_ND

    def pool_images(self, x_TD: Tensor, layout: Layout, normalize: bool = True) -> Tensor:
        """(B * P, D) -> (B, V): the mean over an image's patches, projected."""
        return _finish(self.image_projection(_mean_patch(x_TD, layout)), normalize)

    def pool_text(self, x_TD: Tensor, layout: Layout, normalize: bool = True) -> Tensor:
        """(N, D) -> (B, V): the mean over a caption's tokens, projected."""
        assert layout.text is not None
        x_BLD = layout.text.pad(x_TD)
        pooled_BD = x_BLD.sum(1) / layout.text.mask_BL.sum(1, keepdim=True)
        return _finish(self.text_projection(pooled_BD), normalize)


def _mean_patch(x_TD: Tensor, layout: Layout) -> Tensor:
    return x_TD.view(layout.images, layout.patches, -1).mean(1)


def _finish(embedding_BV: Tensor, normalize: bool) -> Tensor:
    embedding_BV = embedding_BV.float() if embedding_BV.dtype != torch.float64 else embedding_BV
    return F.normalize(embedding_BV, dim=-1) if normalize else embedding_BV
