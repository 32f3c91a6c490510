"""The two-tower CLIP baseline: open_clip's own model, its text tower sized so that a pair costs what it costs the one tower.

Axes: B pairs, L text context, V embedding width, C colour channels, H height, W width in px.

open_clip pools text at the *highest token id* by default, which is wrong with another tokenizer: we pool at end of text. Its
text tower is causal, so that padding after the end of text changes nothing; it runs over the whole padded context, which is
counted.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from limoe.config import ClipParams, TowerParams
from limoe.errors import UserError
from limoe.model.flops import clip_flops
from limoe.model.limoe import Output
from limoe.model.router import NoiseKey
from limoe.model.tokens import PAD_ID, PairBatch, TextLayout

FLOPS_TOLERANCE = 0.05


def matched_text_width(tower: TowerParams, clip: ClipParams, target: float) -> int:
    """The text tower's width that brings a pair's FLOPs nearest to `target`; UserError if none comes within 5%."""
    widths = range(tower.heads, 4 * tower.width + 1, tower.heads)
    best = min(widths, key=lambda width: abs(clip_flops(tower, width, clip.text_depth) - target))
    reached = clip_flops(tower, best, clip.text_depth)
    if abs(reached / target - 1) > FLOPS_TOLERANCE:
        raise UserError(
            f"model.clip.text_depth = {clip.text_depth}: no text tower makes CLIP cost {target:.3g} FLOPs per pair to within "
            f"{FLOPS_TOLERANCE:.0%} (nearest: {reached:.3g} at width {best}); choose another depth or a shorter text_length"
        )
    return best


class Clip(nn.Module):
    """open_clip's CLIP behind the interface of `limoe.model.limoe.Limoe`."""

    def __init__(
        self,
        tower: TowerParams,
        clip: ClipParams,
        text_width: int,
        vocab_size: int,
        eos_id: int,
        init_scale: float = 10.0,
        init_bias: float | None = None,
    ) -> None:
        from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

        super().__init__()
        self.tower = tower
        vision_cfg = CLIPVisionCfg(
            layers=tower.depth,
            width=tower.width,
            head_width=tower.width // tower.heads,
            mlp_ratio=tower.mlp_ratio,
            patch_size=tower.patch_size,
            image_size=tower.image_size,
        )
        text_cfg = CLIPTextCfg(
            context_length=tower.text_length,
            vocab_size=vocab_size,
            width=text_width,
            heads=tower.heads,
            layers=clip.text_depth,
            mlp_ratio=tower.mlp_ratio,
            pool_type="eos",
            eos_id=eos_id,
            pad_id=PAD_ID,
        )
        scale = math.log(init_scale)
        self.clip = CLIP(tower.embed_dim, vision_cfg, text_cfg, init_logit_scale=scale, init_logit_bias=init_bias)

    @property
    def logit_scale(self) -> nn.Parameter:
        """Log of the learned factor on the cosines."""
        return cast(nn.Parameter, self.clip.logit_scale)

    @property
    def logit_bias(self) -> nn.Parameter | None:
        """The learned bias on all logits of the sigmoid loss; None for any other."""
        return cast(nn.Parameter | None, self.clip.logit_bias)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Hold what enters each block for the backward pass, and compute the rest of it again."""
        self.clip.set_grad_checkpointing(enable)

    def forward(self, batch: PairBatch, noise: NoiseKey | None = None) -> Output:  # noqa: ARG002 (the task's contract)
        """Embed a batch of pairs; there is no router, so `noise` is not looked at."""
        layout = TextLayout.of(batch.lengths_B, device=batch.ids_N.device)
        ids_BL = layout.pad(batch.ids_N[:, None])[:, :, 0]
        images_BV = self.encode_image(batch.images_BCHW, normalize=True)
        return Output(images_BV, self.encode_text(ids_BL, normalize=True), None, {})

    def encode_image(self, images_BCHW: Tensor, normalize: bool = False) -> Tensor:
        """float32 (B, V) embeddings of normalised images; B may be 0."""
        if not len(images_BCHW):
            return images_BCHW.new_empty((0, self.tower.embed_dim), dtype=torch.float32)
        with self._attention(images_BCHW.device):
            return _finish(self.clip.encode_image(images_BCHW), normalize)

    def image_features(self, images_BCHW: Tensor) -> Tensor:
        """float32 (B, D): what the images' embeddings are projected from; B may be 0."""
        if not len(images_BCHW):
            return images_BCHW.new_empty((0, self.tower.width), dtype=torch.float32)
        with self._attention(images_BCHW.device):
            return unprojected(self.clip.visual, images_BCHW)

    def encode_text(self, ids_BL: Tensor, normalize: bool = False) -> Tensor:
        """float32 (B, V) embeddings of captions as padded ids, of at most the text length; shorter ones are padded to it."""
        ids_BL = F.pad(ids_BL, (0, self.tower.text_length - ids_BL.shape[1]), value=PAD_ID)
        with self._attention(ids_BL.device):
            return _finish(self.clip.encode_text(ids_BL), normalize)

    def _attention(self, device: torch.device) -> AbstractContextManager[None]:
        """On CPU the written-out attention: the fused one's backward pass takes ten times as long in bf16 (LOG.md). Not where
        blocks are computed again: that happens outside of this context, and must use the same one."""
        plain = device.type == "cpu" and not self.clip.transformer.grad_checkpointing
        return cast(AbstractContextManager[None], sdpa_kernel(SDPBackend.MATH)) if plain else nullcontext()


def unprojected(visual: nn.Module, images_BCHW: Tensor) -> Tensor:
    """float32 (B, D): what an image tower of open_clip's projects; its embedding where no projection stands apart (a ResNet's
    pools and projects at once)."""
    if isinstance(trunk := getattr(visual, "trunk", None), nn.Module):  # one of timm's; what follows it is the projection
        found = trunk(images_BCHW)
    elif isinstance(projection := getattr(visual, "proj", None), Tensor):
        identity = torch.eye(len(projection), dtype=projection.dtype, device=projection.device)
        found = functional_call(visual, {"proj": identity}, images_BCHW)
    else:
        found = visual(images_BCHW)
    return cast(Tensor, found[0] if isinstance(found, tuple) else found).float()  # CoCa's towers return their tokens, too


def _finish(embedding_BV: Tensor, normalize: bool) -> Tensor:
    embedding_BV = embedding_BV.float()
    return F.normalize(embedding_BV, dim=-1) if normalize else embedding_BV
