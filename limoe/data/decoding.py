"""The pictures of a training batch: decoded, or taken from those that were decoded before, and augmented.

Axes: B pairs, O own pairs (those of this rank), C colour channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock

import torch
from torch import Tensor

from limoe.data.augment import Augmentation
from limoe.data.rgb import UNDECODABLE
from limoe.data.sampler import Pick
from limoe.data.transforms import decode_square, decode_uint8, resized
from limoe.errors import UserError

MEGABYTE = 1 << 20


class PictureCache:
    """Decoded pictures, kept from their first use until the memory for them is full; from then on those there are.

    Under epochs in random order that serves as many hits as any rule of replacement.
    """

    def __init__(self, capacity: int) -> None:
        """Of so many bytes; they are taken as pictures come."""
        self._free, self._lock = capacity, Lock()
        self._pixels: dict[tuple[int, int], Tensor] = {}

    def take(self, pick: Pick, decode: Callable[[bytes], Tensor]) -> Tensor:
        """The picture as `decode` makes it, always the same for a row; UserError naming one that cannot be decoded."""
        kept = self._pixels.get((pick.source, pick.index))
        if kept is not None:
            return kept
        try:
            pixels_CHW = decode(pick.row.image)
        except UNDECODABLE as error:
            raise UserError(f"training picture {pick.row.key!r} cannot be decoded ({error}); run `limoe prepare` again") from None
        with self._lock:
            if pixels_CHW.nbytes <= self._free and (pick.source, pick.index) not in self._pixels:
                self._free -= pixels_CHW.nbytes
                self._pixels[pick.source, pick.index] = pixels_CHW
        return pixels_CHW

    def drop(self) -> None:
        """Let go of all pictures."""
        with self._lock:
            self._free += sum(pixels_CHW.nbytes for pixels_CHW in self._pixels.values())
            self._pixels.clear()


class Pictures:
    """The training pictures as augmented batches.

    Rows with a label show one thing, and any large crop still shows it: they are cropped, from the picture at up to twice the
    tower's side. The captions of rows without one (scenes, photos) tell what lies where, and a crop could cut off what they name:
    these rows are never cropped, and kept at the tower's own side.
    """

    def __init__(self, augmentation: Augmentation, cache_mb: int) -> None:
        """cache_mb: for decoded pictures, MiB."""
        self._augment, self._size = augmentation, augmentation.size
        self._cache = PictureCache(cache_mb * MEGABYTE)

    def take(self, picks: Sequence[Pick], own: slice, generator: torch.Generator) -> Tensor:
        """float32 (O, 3, size, size), normalised, of the `own` ones among the picks of a batch; all randomness comes from
        `generator`, and is what the whole batch would have."""
        draws_BN = self._augment.draw(len(picks), generator)
        labelled = [pick.row.labelled for pick in picks[own]]
        pictures = [
            self._cache.take(pick, self._roomy if pick.row.labelled and self._augment.crop_scale < 1 else self._exact)
            for pick in picks[own]
        ]
        return self._augment(pictures, labelled, draws_BN[own])

    def drop(self) -> None:
        """Let go of the pictures that were kept."""
        self._cache.drop()

    def _exact(self, image: bytes) -> Tensor:
        return decode_uint8(image, self._size)

    def _roomy(self, image: bytes) -> Tensor:
        pixels_CHW = decode_square(image, self._size)
        return resized(pixels_CHW, min(pixels_CHW.shape[1], 2 * self._size))
