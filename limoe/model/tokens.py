"""What flows through the tower.

Axes: B pairs, P patches an image, N text tokens of the batch, L longest caption, T rows of the stream, D width,
C colour channels, H height, W width in px.

A batch's captions are one flat run of tokens with their lengths: padding inside sequences does not exist. The stream puts all
image tokens first (pair by pair), then all text tokens; if its text is padded to a bucket length, the last rows are no tokens,
and nothing may look at them.

Shapes follow from the captions' lengths. These stay on the CPU, so that nobody has to wait for a GPU to learn a shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from limoe.model.rows import gather_rows

TEXT, IMAGE = 0, 1
MODALITIES = ("text", "image")
PAD_ID = 0


@dataclass(frozen=True)
class PairBatch:
    """A batch of image-caption pairs.

    images_BCHW: float32, normalised (uint8 until limoe.data.colours has finished it). ids_N: int64 token ids of all captions,
    flat. lengths_B: int64, on the CPU, tokens of each caption (at least 1; the last one is end of text). keys: the records' keys,
    for messages.
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

    def pin_memory(self) -> PairBatch:
        """A copy in pinned memory, from which a GPU takes it by itself."""
        return PairBatch(self.images_BCHW.pin_memory(), self.ids_N.pin_memory(), self.lengths_B.pin_memory(), self.keys)

    def to(self, device: torch.device) -> PairBatch:
        """The batch on `device`, but for the lengths."""
        images_BCHW, ids_N = (tensor.to(device, non_blocking=True) for tensor in (self.images_BCHW, self.ids_N))
        return PairBatch(images_BCHW, ids_N, self.lengths_B, self.keys)


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
    def of(cls, lengths_B: Tensor, multiples: tuple[int, int] = (1, 1), device: torch.device | None = None) -> TextLayout:
        """The layout, on `device`, of captions of these lengths (on the CPU); N and L are rounded up to these multiples.

        >>> TextLayout.of(torch.tensor([2, 1]), (4, 1)).slot_N
        tensor([0, 1, 2, 4])
        """
        needed = (int(lengths_B.sum()), int(lengths_B.max()))
        rows, longest = (size + -size % multiple for size, multiple in zip(needed, multiples, strict=True))
        mask_BL = torch.arange(longest, device=device) < lengths_B.to(device, non_blocking=True)[:, None]
        mask_S = mask_BL.flatten()
        slot_N = torch.nonzero_static(mask_S, size=rows, fill_value=len(mask_S)).squeeze(1)
        return cls(slot_N, torch.where(mask_S, mask_S.cumsum(0) - 1, rows), mask_BL)

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
    row, counted from 0 (0 on padding). tokens_G: int64, real tokens of each group. rows_GM: the same by modality, on the CPU.
    """

    images: int
    patches: int
    text: TextLayout | None
    modality_T: Tensor
    real_T: Tensor
    group_T: Tensor
    tokens_G: Tensor
    rows_GM: Tensor

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
        lengths_B = None if lengths_B is None else lengths_B.cpu()
        text = None if lengths_B is None else TextLayout.of(lengths_B, text_shape, device)
        rows_GM = _rows_by_group(torch.full((images,), patches), lengths_B, group_pairs)
        pair_T = torch.arange(images, device=device).repeat_interleave(patches)
        pair_T = pair_T if text is None else torch.cat([pair_T, text.pair_N])
        real_T = torch.arange(len(pair_T), device=device) < int(rows_GM.sum())
        group_T = torch.where(real_T, pair_T // group_pairs, 0) if group_pairs else torch.zeros_like(pair_T)
        modality_T = torch.full_like(pair_T, TEXT)
        modality_T[: images * patches] = IMAGE
        tokens_G = rows_GM.sum(1).to(device, non_blocking=True)
        return cls(images, patches, text, modality_T, real_T, group_T, tokens_G, rows_GM)


def _rows_by_group(patches_B: Tensor, lengths_B: Tensor | None, group_pairs: int) -> Tensor:
    """int64 (G, M): tokens of each group's captions and pictures."""
    texts_B = patches_B.new_zeros(len(patches_B)) if lengths_B is None else lengths_B
    pairs = max(len(patches_B), len(texts_B))
    group_pairs = group_pairs or pairs
    groups = -(-pairs // group_pairs)
    padded = [F.pad(rows_B, (0, groups * group_pairs - len(rows_B))) for rows_B in (texts_B, patches_B)]
    return torch.stack([rows_B.view(groups, group_pairs).sum(1) for rows_B in padded], dim=1)
