"""The pictures of a training batch: decoded, or taken from those that were decoded before, and augmented; of 8 bits throughout.

Axes: O pictures, C = 3 colour channels, H height, W width, N numbers drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Future, wait
from typing import NamedTuple, Self

import torch
from torch import Tensor

from limoe.data.augment import Augmentation
from limoe.data.rgb import UNDECODABLE
from limoe.data.sampler import Pick
from limoe.data.threads import single_core_thread
from limoe.data.transforms import decode_square, decode_uint8, resized
from limoe.errors import Reported, UserError

MEGABYTE = 1 << 20


class Encoded(NamedTuple):
    """A picture to be made: number of its source, of its row within it, key, encoded bytes, whether its row has a label.

    A tuple: sent to another process it costs a tenth of what a dataclass does.
    """

    source: int
    row: int
    key: str
    image: bytes
    labelled: bool

    @classmethod
    def of(cls, pick: Pick) -> Self:
        """That of a row which was drawn."""
        return cls(pick.source, pick.index, pick.row.key, pick.row.image, pick.row.labelled)


class Making:
    """Pictures that are being made."""

    def __init__(self, images_OCHW: Tensor, parts: Sequence[Future[None]]) -> None:
        """images_OCHW: into which all `parts` together write them."""
        self._images_OCHW, self._parts = images_OCHW, parts

    def result(self) -> Tensor:
        """The pictures, when they are made; what went wrong with one of them, when nobody writes any more."""
        wait(self._parts)
        try:
            for part in self._parts:
                part.result()
        except BrokenExecutor:
            raise maker_killed() from None
        return self._images_OCHW

    def drop(self) -> None:
        """Let go of them: when this is over, nobody writes any more.

        None is cancelled: Python 3.11's pool never ends those that are, if its process dies meanwhile.
        """
        wait(self._parts)


def maker_killed() -> Reported:
    """What to raise when a process that makes pictures has died."""
    return Reported(
        "machine",
        "a process that decodes training pictures was killed, perhaps for want of memory: lower machine.workers or "
        "machine.cache_mb, and start again; the training goes on from its last checkpoint",
    )


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
        place = picture.source, picture.row
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
        self._augment, self.size = augmentation, augmentation.size
        self._cache = PictureCache(cache_mb * MEGABYTE)

    def write(self, pictures: Sequence[Encoded], draws_ON: Tensor, images: Sequence[Tensor]) -> None:
        """Make them into these O images, uint8 (3, size, size). draws_ON: what `augmentation` drew for these pictures."""
        pixels = (
            self._cache.take(picture, self._roomy if picture.labelled and self._augment.crop_scale < 1 else self._exact)
            for picture in pictures
        )
        self._augment(pixels, [picture.labelled for picture in pictures], draws_ON, images)

    def close(self) -> None:
        """Let go of the pictures that were kept."""
        self._cache.clear()

    def _exact(self, image: bytes) -> Tensor:
        return decode_uint8(image, self.size)

    def _roomy(self, image: bytes) -> Tensor:
        pixels_CHW = decode_square(image, self.size)
        return resized(pixels_CHW, min(pixels_CHW.shape[1], 2 * self.size))


class InThread:
    """Pictures made in the background, by a thread of one core. Close it when done."""

    def __init__(self, pictures: Pictures) -> None:
        self._pictures, self._thread = pictures, single_core_thread("limoe-loader-pictures")

    def begin(self, pictures: Sequence[Encoded], draws_ON: Tensor) -> Making:
        """uint8 (O, 3, size, size); see Pictures.write."""
        images_OCHW = torch.empty(len(pictures), 3, self._pictures.size, self._pictures.size, dtype=torch.uint8)
        return Making(images_OCHW, [self._thread.submit(self._pictures.write, pictures, draws_ON, images_OCHW.unbind())])

    def close(self) -> None:
        """End the thread, and let go of the pictures that were kept."""
        self._thread.shutdown()
        self._pictures.close()
