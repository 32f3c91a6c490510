"""Training pictures made random: a crop resized to the tower's side, mirrored, changed by RandAugment; all on 8-bit pictures.

Axes: B pictures, C = 3 colour channels, H height, W width, S side of a picture before it is cropped, all in px; N numbers drawn.

What a picture becomes depends on its own random numbers alone, and these are drawn beforehand, from the generator of the step.
Its colours are changed later, where it is trained on (limoe.data.colours).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Generator, Tensor

from limoe.data.transforms import resized

ASPECT_RATIOS = (3 / 4, 4 / 3)
CHUNK = 64  # pictures that are decoded before they are cropped and resized: a tenth quicker than turn by turn (LOG.md)


@dataclass(frozen=True)
class Augmentation:
    """What is done to pictures, and how strongly.

    size: px, of what comes out. crop_scale: the crop keeps a share of the area uniform in [crop_scale, 1], of aspect 3/4 to 4/3,
    to whole pixels. flip: probability of being mirrored. operations, magnitude: RandAugment's (limoe.data.randaugment).
    color_jitter: brightness, contrast and saturation are scaled, in this order, by factors uniform in 1 plus or minus so much.
    """

    size: int
    crop_scale: float = 1.0
    color_jitter: float = 0.0
    flip: float = 0.0
    operations: int = 0
    magnitude: int = 0

    def draw(self, batch: int, generator: Generator) -> Tensor:
        """(B, N) uniform on [0, 1): what a call needs to know of chance, for so many pictures."""
        return torch.rand(batch, 8 + 2 * self.operations, generator=generator, dtype=torch.float32)

    def factors(self, draws_BN: Tensor) -> Tensor | None:
        """float32 (B, 3), by which brightness, contrast and saturation are to be scaled; None if they are to be left alone."""
        return 1 + self.color_jitter * (2 * draws_BN[:, 4:7] - 1) if self.color_jitter else None

    def __call__(self, pictures: Iterable[Tensor], croppable: Sequence[bool], draws_BN: Tensor, images: Sequence[Tensor]) -> None:
        """uint8 (3, S, S), any S -> uint8 (3, size, size), written into the B `images`, wherever they lie.

        Crops and RandAugment are for the croppable alone. Pictures are taken when it is their turn.
        """
        crop_scale_B = torch.where(torch.tensor(croppable, dtype=torch.bool), self.crop_scale, 1.0)
        boxes = crop_boxes(draws_BN[:, :4], crop_scale_B).tolist()
        mirrored, choices = (draws_BN[:, 7] < self.flip).tolist(), draws_BN[:, 8:].tolist()
        coming = iter(pictures)
        for start in range(0, len(images), CHUNK):
            for i, picture in enumerate(list(islice(coming, CHUNK)), start):
                square = resized(crop(picture, pixel_box(boxes[i], picture.shape[1])), self.size)
                square = square.flip(2) if mirrored[i] else square
                images[i].copy_(self._changed(square, choices[i]) if croppable[i] and self.operations else square)

    def _changed(self, square: Tensor, choices: Sequence[float]) -> Tensor:
        from limoe.data.randaugment import rand_augment  # torchvision takes seconds to import

        return rand_augment(square, list(zip(choices[::2], choices[1::2], strict=True)), self.magnitude)


def crop_boxes(uniform_B4: Tensor, crop_scale_B: Tensor) -> Tensor:
    """Boxes (left, top, width, height) as shares of the side, float32 (B, 4), from uniform draws (area, aspect, left, top).

    The aspect is drawn only from where the box fits into the picture, so the area is exact and nothing is drawn twice.
    """
    area_B = crop_scale_B + (1 - crop_scale_B) * uniform_B4[:, 0]
    low_B = area_B.clamp_min(ASPECT_RATIOS[0]).log()
    high_B = area_B.reciprocal().clamp_max(ASPECT_RATIOS[1]).log()
    aspect_B = (low_B + (high_B - low_B) * uniform_B4[:, 1]).exp()
    width_B = (area_B * aspect_B).sqrt().clamp_max(1)
    height_B = (area_B / aspect_B).sqrt().clamp_max(1)
    return torch.stack([uniform_B4[:, 2] * (1 - width_B), uniform_B4[:, 3] * (1 - height_B), width_B, height_B], dim=1)


def pixel_box(box: Sequence[float], side: int) -> tuple[int, int, int, int]:
    """The box (shares of the side) as whole pixels (left, top, width, height) of a picture of that side: inside, not empty."""
    left, top, width, height = (round(share * side) for share in box)
    width, height = max(width, 1), max(height, 1)
    return min(left, side - width), min(top, side - height), width, height


def crop(pixels_CHW: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    """What lies in the box (left, top, width, height), px; in memory pixel by pixel, as pictures are decoded and resized."""
    left, top, width, height = box
    return pixels_CHW.permute(1, 2, 0)[top : top + height, left : left + width].contiguous().permute(2, 0, 1)
