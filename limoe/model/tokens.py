"""What flows through the tower.

Axes: B pairs, P patches an image, N text tokens of the batch, L longest caption, T rows of the stream, D width,
C colour channels, H height, W width in px.

A batch's captions are one flat run of tokens with their lengths: padding inside sequences does not exist. The stream puts all
image tokens first (pair by pair), then all text tokens; if its text is padded to a bucket length, the last rows are no tokens,
and nothing may look at them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

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

    def __len__(self) -> int:
        """B."""
        return len(self.images_BCHW)

    def split(self, pairs: int) -> list[PairBatch]:
        """Parts of so many pairs, which must divide the batch (ValueError), in order."""
        if len(self) % pairs:
            raise ValueError(f"{len(self)} pairs cannot be cut into parts of {pairs}")
        tokens = self.lengths_B.view(-1, pairs).sum(1).tolist()
        keys = [self.keys[first : first + pairs] for first in range(0, len(self), pairs)]
        cut = (torch.split(self.images_BCHW, pairs), torch.split(self.ids_N, tokens), torch.split(self.lengths_B, pairs), keys)
        return [PairBatch(*part) for part in zip(*cut, strict=True)]

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

    slot_N: int64, where row n lies in the padded (B * L) view; B * L for the rows at the end that are no tokens. token_S: int64,
    the row in each of those S = B * L slots, N where there is none. mask_BL: bool, True on real tokens.
    """

    slot_N: Tensor
    token_S: Tensor
    mask_BL: Tensor

    @classmethod
    def of(cls, lengths_B: Tensor, rows: int | None = None, longest: int | None = None) -> TextLayout:
        """The layout of captions of these lengths; rows and longest: N and L, if they are to be more than is needed.

        >>> TextLayout.of(torch.tensor([2, 1]), rows=4).slot_N
        tensor([0, 1, 2, 4])
        """
        columns = torch.arange(int(lengths_B.max()) if longest is None else longest, device=lengths_B.device)
        mask_BL = columns < lengths_B[:, None]
        mask_S = mask_BL.flatten()
        slot_N = mask_S.nonzero().squeeze(1)
        rows = len(slot_N) if rows is None else rows
        token_S = torch.where(mask_S, mask_S.cumsum(0) - 1, rows)
        return cls(torch.nn.functional.pad(slot_N, (0, rows - len(slot_N)), value=len(mask_S)), token_S, mask_BL)

    @property
    def position_N(self) -> Tensor:
        """int64, each token's place in its caption, from 0."""
        return self.slot_N % self.mask_BL.shape[1]

    @property
    def pair_N(self) -> Tensor:
        """int64, each token's pair; B for rows that are no tokens."""
        return self.slot_N // self.mask_BL.shape[1]

    def pad(self, x_ND: Tensor) -> Tensor:
        """Flat tokens as (B, L, D), zeros where there is no token."""
        padded = gather_rows(x_ND, self.token_S, self.slot_N[:, None])
        return padded.view(*self.mask_BL.shape, -1)

    def flatten(self, x_BLD: Tensor) -> Tensor:
        """The inverse of `pad`: (N, D), zeros in rows that are no tokens."""
        return gather_rows(x_BLD.flatten(0, 1), self.slot_N, self.token_S[:, None])


def flat_ids(ids_BL: Tensor) -> tuple[Tensor, Tensor]:
    """(ids_N, lengths_B) of ids padded at their right end with PAD_ID, as tokenizers hand them out (open_clip's convention)."""
    mask_BL = ids_BL != PAD_ID
    return ids_BL[mask_BL], mask_BL.sum(1)


@dataclass(frozen=True)
class Layout:
    """What each row of the stream x_TD is: `images` * P image tokens, then the text's rows, of which the last may be padding.

    text is None without captions. modality_T: int64. real_T: bool, False on padding. group_T: int64, the routing group of each
    row, counted from 0 (0 on padding). tokens_G: int64, real tokens of each group.
    """

    images: int
    patches: int
    text: TextLayout | None
    modality_T: Tensor
    real_T: Tensor
    group_T: Tensor
    tokens_G: Tensor

    @property
    def image_rows(self) -> int:
        """Number of image tokens."""
        return self.images * self.patches

    @property
    def text_rows(self) -> int:
        """Number of the text's rows, padding included."""
        return 0 if self.text is None else self.text.slot_N.numel()

    @property
    def groups(self) -> int:
        """G, the number of routing groups."""
        return len(self.tokens_G)

    @cached_property
    def members(self) -> list[Tensor]:
        """int64, the real rows of each group, in the array's order."""
        return [((self.group_T == group) & self.real_T).nonzero().squeeze(1) for group in range(self.groups)]

    @property
    def rank_T(self) -> Tensor:
        """int64, each real row's place in its group, from 0, in the array's order; 0 on padding."""
        member_GT = (self.group_T == torch.arange(self.groups, device=self.group_T.device)[:, None]) & self.real_T
        return ((member_GT.cumsum(1) - 1) * member_GT).sum(0)

    @property
    def position_T(self) -> Tensor:
        """int64, each row's place in its own sequence, from 0."""
        patch_T = torch.arange(self.patches, device=self.group_T.device).repeat(self.images)
        return patch_T if self.text is None else torch.cat([patch_T, self.text.position_N])

    def split(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """The image and the text rows of a stream (one split: a slice's gradient is a stream of zeros)."""
        image_rows, text_rows = torch.split(x_TD, [self.image_rows, self.text_rows])
        return image_rows, text_rows

    @classmethod
    def of(
        cls,
        images: int,
        patches: int,
        lengths_B: Tensor | None,
        device: torch.device,
        group_pairs: int = 0,
        text_shape: tuple[int, int] = (1, 1),
    ) -> Layout:
        """The layout of a batch. `group_pairs` 0 puts everything into one group.

        text_shape: what the text's rows N, and L, are padded to multiples of: the same shapes come again and again for captions
        of many lengths, so that compiled code and cached kernels fit them; no result sees it.
        """
        text = None if lengths_B is None else _text_layout(lengths_B.to(device), *text_shape)
        pair_T = torch.arange(images, device=device).repeat_interleave(patches)
        pairs, rows = images, images * patches
        if text is not None:
            pair_T = torch.cat([pair_T, text.pair_N])
            pairs, rows = max(pairs, len(text.mask_BL)), rows + int(text.mask_BL.sum())
        real_T = torch.arange(len(pair_T), device=device) < rows
        group_T = torch.where(real_T, pair_T // group_pairs, 0) if group_pairs else torch.zeros_like(pair_T)
        groups = -(-pairs // group_pairs) if group_pairs else 1
        modality_T = torch.full_like(pair_T, TEXT)
        modality_T[: images * patches] = IMAGE
        tokens_G = torch.bincount(group_T[real_T], minlength=groups)
        return cls(images, patches, text, modality_T, real_T, group_T, tokens_G)


def _text_layout(lengths_B: Tensor, *multiples: int) -> TextLayout:
    needed = (int(lengths_B.sum()), int(lengths_B.max()))
    rows, longest = (size + -size % multiple for size, multiple in zip(needed, multiples, strict=True))
    return TextLayout.of(lengths_B, rows, longest)
