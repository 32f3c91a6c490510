"""The pictures of a training batch: decoded, or taken from those that were decoded before, and augmented.

Axes: O pictures, C = 3 colour channels, H height, W width, N numbers drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from limoe.data.augment import Augmentation
from limoe.data.rgb import UNDECODABLE
from limoe.data.sampler import Pick
from limoe.data.transforms import decode_square, decode_uint8, resized
from limoe.errors import UserError

MEGABYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Encoded:
    """A picture to be made: number of its source, index within it, key, encoded bytes, whether its row has a label."""

    source: int
    index: int
    key: str
    image: bytes
    labelled: bool

    @classmethod
    def of(cls, pick: Pick) -> Self:
        """That of a row which was drawn."""
        return cls(pick.source, pick.index, pick.row.key, pick.row.image, pick.row.labelled)


class PictureCache:
    """Decoded pictures, kept from their first use until the memory for them is full; from then on those there are.

    Under epochs in random order that serves as many hits as any rule of replacement. For one thread.
    """

    def __init__(self, capacity: int) -> None:
        """Of so many bytes; they are taken as pictures come."""
        self._free = capacity
        self._pixels: dict[tuple[int, int], Tensor] = {}

    def take(self, picture: Encoded, decode: Callable[[bytes], Tensor]) -> Tensor:
        """The picture as `decode` makes it, always the same for a row; UserError naming one that cannot be decoded."""
        place = picture.source, picture.index
        kept = self._pixels.get(place)
        if kept is not None:
            return kept
        try:
            pixels_CHW = decode(picture.image)
        except UNDECODABLE as error:
            raise UserError(f"training picture {picture.key!r} cannot be decoded ({error}); run `limoe prepare` again") from None
        if pixels_CHW.nbytes <= self._free:
            self._free -= pixels_CHW.nbytes
            self._pixels[place] = pixels_CHW
        return pixels_CHW

    def clear(self) -> None:
        """Let go of all pictures."""
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

    def make(self, pictures: Sequence[Encoded], draws_ON: Tensor) -> Tensor:
        """float32 (O, 3, size, size), normalised. draws_ON: what `augmentation` drew for these pictures."""
        images_OCHW = torch.empty(len(pictures), 3, self._size, self._size, dtype=torch.float32)
        self.write(pictures, draws_ON, images_OCHW.unbind())
        return images_OCHW

    def write(self, pictures: Sequence[Encoded], draws_ON: Tensor, images: Sequence[Tensor]) -> None:
        """Likewise, into these O images, float32 (3, size, size)."""
        pixels = (
            self._cache.take(picture, self._roomy if picture.labelled and self._augment.crop_scale < 1 else self._exact)
            for picture in pictures
        )
        self._augment(pixels, [picture.labelled for picture in pictures], draws_ON, images)

    def close(self) -> None:
        """Let go of the pictures that were kept."""
        self._cache.clear()

    def _exact(self, image: bytes) -> Tensor:
        return decode_uint8(image, self._size)

    def _roomy(self, image: bytes) -> Tensor:
        pixels_CHW = decode_square(image, self._size)
        return resized(pixels_CHW, min(pixels_CHW.shape[1], 2 * self._size))
