"""What is left to do to a training picture where it is trained on: its colours, and from 8 bits to normalised numbers.

Axes: B pictures, C = 3 colour channels, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from limoe.data.transforms import normalize
from limoe.model.tokens import PairBatch

GREY_WEIGHTS = (0.2989, 0.587, 0.114)  # ITU-R 601, as torchvision has them
CHUNK = 16  # pictures that are worked on at a time, so that they stay in a processor's cache


@dataclass(frozen=True)
class RawBatch:
    """Pairs as the loader hands them out: a quarter of the bytes of a finished batch to write, keep and copy, and the work with
    floating-point numbers is left to the device that trains.

    pairs: with pictures of 8 bits, cropped and resized, uint8. factors_B3: float32, by which each one's brightness, contrast and
    saturation are to be scaled; None to leave colours alone.
    """

    pairs: PairBatch
    factors_B3: Tensor | None

    def pin_memory(self) -> RawBatch:
        """A copy in pinned memory, from which a GPU takes it by itself."""
        return RawBatch(self.pairs.pin_memory(), None if self.factors_B3 is None else self.factors_B3.pin_memory())

    def to(self, device: torch.device) -> RawBatch:
        """The batch on `device`, but for the captions' lengths."""
        factors_B3 = None if self.factors_B3 is None else self.factors_B3.to(device, non_blocking=True)
        return RawBatch(self.pairs.to(device), factors_B3)

    def finished(self) -> PairBatch:
        """The batch that the tower takes, on this one's device. On a CPU its bits do not depend on the number of threads."""
        pixels_BCHW = self.pairs.images_BCHW
        images_BCHW = torch.empty_like(pixels_BCHW, dtype=torch.float32)
        chunk = len(images_BCHW) if images_BCHW.is_cuda else CHUNK
        for start in range(0, len(images_BCHW), chunk):
            part = slice(start, start + chunk)
            work_BCHW = images_BCHW[part].copy_(pixels_BCHW[part]).div_(255)
            if self.factors_B3 is not None:
                jitter(work_BCHW, self.factors_B3[part])
            normalize(work_BCHW)
        return replace(self.pairs, images_BCHW=images_BCHW)


def jitter(images_BCHW: Tensor, factors_B3: Tensor) -> Tensor:
    """Brightness, contrast, saturation scaled by each picture's three factors, in place: 0..1 stays in 0..1.

    Brightness scales the picture; contrast moves it from its mean grey, saturation each pixel from its own grey.
    """
    brightness, contrast, saturation = factors_B3[:, :, None, None, None].unbind(1)
    images_BCHW.mul_(brightness).clamp_(0, 1)
    # Row by row: at once, torch would share a batch of one picture among threads, and its last bits would depend on their number.
    mean_B111 = grey(images_BCHW).mean(3, keepdim=True).mean(2, keepdim=True)
    images_BCHW.sub_(mean_B111).mul_(contrast).add_(mean_B111).clamp_(0, 1)
    grey_B1HW = grey(images_BCHW)
    return images_BCHW.sub_(grey_B1HW).mul_(saturation).add_(grey_B1HW).clamp_(0, 1)


def grey(images_BCHW: Tensor) -> Tensor:
    """Luminance, (B, 1, H, W)."""
    red, green, blue = images_BCHW[:, :1], images_BCHW[:, 1:2], images_BCHW[:, 2:]
    return (GREY_WEIGHTS[0] * red).add_(green, alpha=GREY_WEIGHTS[1]).add_(blue, alpha=GREY_WEIGHTS[2])
