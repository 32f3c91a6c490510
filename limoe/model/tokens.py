"""What flows through the tower.

Axes: B pairs, P patches an image, N text tokens of the batch, L longest caption, T rows of the stream, D width,
C colour channels, H height, W width in px.

A batch's captions are one flat run of tokens with their lengths: padding inside sequences does not exist. The stream puts all
image tokens first (pair by pair), then all text tokens, then, if it is padded to a bucket length, rows that nothing may look at.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from limoe.model.rows import gather_rows

TEXT, IMAGE = 0, 1
MODALITIES = ("text", "image")
PAD_ID = 0


@dataclass(frozen=True)
class PairBatch:
    """A batch of image-caption pairs.

    images_BCHW: float32, normalised. ids_N: int64 token ids of all captions, flat. lengths_B: int64 tokens of each caption
    (at least 1; the last one is end of text). keys: the records' keys, for messages.
    """

    images_BCHW: Tensor
    ids_N: Tensor
    lengths_B: Tensor
    keys: tuple[str, ...]

    def to(self, device: torch.device) -> PairBatch:
        """The batch on `device`."""
        return PairBatch(
            self.images_BCHW.to(device, non_blocking=True),
            self.ids_N.to(device, non_blocking=True),
            self.lengths_B.to(device, non_blocking=True),
            self.keys,
        )


@dataclass(frozen=True)
class TextLayout:
    """How the flat text tokens are seen as sequences.

    slot_N: int64, where token n lies in the padded (B * L) view. token_S: int64, the token in each of those S = B * L slots, N
    where there is none. mask_BL: bool, True on real tokens.
    """

    slot_N: Tensor
    token_S: Tensor
    mask_BL: Tensor

    @classmethod
    def of(cls, lengths_B: Tensor) -> TextLayout:
        """The layout of captions of these lengths.

        >>> TextLayout.of(torch.tensor([2, 1])).slot_N
        tensor([0, 1, 2])
        """
        longest = int(lengths_B.max())
        mask_BL = torch.arange(longest, device=lengths_B.device) < lengths_B[:, None]
        mask_S = mask_BL.flatten()
        token_S = torch.where(mask_S, mask_S.cumsum(0) - 1, mask_S.sum())
        return cls(mask_S.nonzero().squeeze(1), token_S, mask_BL)

    @property
    def position_N(self) -> Tensor:
        """int64, each token's place in its caption, from 0."""
        return self.slot_N % self.mask_BL.shape[1]

    @property
    def pair_N(self) -> Tensor:
        """int64, each token's pair."""
        return self.slot_N // self.mask_BL.shape[1]

    def pad(self, x_ND: Tensor) -> Tensor:
        """Flat tokens as (B, L, D), zeros where there is no token."""
        padded = gather_rows(x_ND, self.token_S, self.slot_N[:, None])
        return padded.view(*self.mask_BL.shape, -1)

    def flatten(self, x_BLD: Tensor) -> Tensor:
        """The inverse of `pad`: (N, D)."""
        return gather_rows(x_BLD.flatten(0, 1), self.slot_N, self.token_S[:, None])


def flat_ids(ids_BL: Tensor) -> tuple[Tensor, Tensor]:
    """(ids_N, lengths_B) of ids padded at their right end with PAD_ID, as tokenizers hand them out (open_clip's convention)."""
    mask_BL = ids_BL != PAD_ID
    return ids_BL[mask_BL], mask_BL.sum(1)


@dataclass(frozen=True)
class Layout:
    """What each row of the stream x_TD is: `images` * P image tokens, then the text tokens, then `padding` rows.

    text is None without captions. group_T: int64, the routing group of each row, counted from 0.
    """

    images: int
    patches: int
    text: TextLayout | None
    padding: int
    modality_T: Tensor
    real_T: Tensor
    group_T: Tensor
    groups: int

    @property
    def image_rows(self) -> int:
        """Number of image tokens."""
        return self.images * self.patches

    @property
    def text_rows(self) -> int:
        """Number of text tokens."""
        return 0 if self.text is None else self.text.slot_N.numel()

    def split(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """The image and the text tokens of a stream, padding left out (one split: a slice's gradient is a stream of zeros)."""
        image_rows, text_rows, _ = torch.split(x_TD, [self.image_rows, self.text_rows, self.padding])
        return image_rows, text_rows

    @classmethod
    def of(
        cls, images: int, patches: int, lengths_B: Tensor | None, device: torch.device, group_pairs: int = 0, bucket: int = 1
    ) -> Layout:
        """The layout of a batch. `group_pairs` 0 puts everything into one group; `bucket` pads the stream to a multiple of it."""
        text = None if lengths_B is None else TextLayout.of(lengths_B.to(device))
        text_rows = 0 if text is None else text.slot_N.numel()
        rows = images * patches + text_rows
        padding = -rows % bucket
        pair_T = torch.arange(images, device=device).repeat_interleave(patches)
        if text is not None:
            pair_T = torch.cat([pair_T, text.pair_N])
        group_T = pair_T // group_pairs if group_pairs else torch.zeros_like(pair_T)
        pairs = max(images, 0 if lengths_B is None else len(lengths_B))
        modality_T = torch.full((rows + padding,), TEXT, device=device)
        modality_T[: images * patches] = IMAGE
        return cls(
            images=images,
            patches=patches,
            text=text,
            padding=padding,
            modality_T=modality_T,
            real_T=torch.arange(rows + padding, device=device) < rows,
            group_T=torch.nn.functional.pad(group_T, (0, padding)),
            groups=-(-pairs // group_pairs) if group_pairs else 1,
        )
