"""From encoded pictures to the tower's input: one exact path for evaluation, one random path for training.

Axes: B pictures, C = 3 colour channels, H height, W width, O output side, S stored side, all in px.

Both paths resize with Pillow's antialiased bicubic filter; the random one as two matrices a picture, so that a batch of different
crops is two batched products (`resample`).
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from limoe.data.rgb import UNDECODABLE, to_rgb
from limoe.errors import UserError

MEAN = STD = 0.5
ASPECT_RATIOS = (3 / 4, 4 / 3)
GREY_WEIGHTS = (0.2989, 0.587, 0.114)  # ITU-R 601, as torchvision has them
LONGEST = 4  # a picture is cut to so many times its shorter side before it is resized, or a line of pixels would fill the memory
CHUNK = 16  # pictures augmented at a time: what is worked on stays in the processor's cache


def fit_square(image: Image.Image, size: int) -> Image.Image:
    """The middle square of an RGB image after its shortest side became `size` px (torchvision's Resize and CenterCrop)."""
    short = min(image.size)
    if short != size:
        if max(image.size) > LONGEST * short:
            image = _middle(image, LONGEST * short)
        width, height = image.size
        image = image.resize((size * width // short, size * height // short), Image.Resampling.BICUBIC)
    return _middle(image, size)


def _middle(image: Image.Image, most: int) -> Image.Image:
    """The middle of `image`, at most `most` px wide and high."""
    width, height = (min(side, most) for side in image.size)
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def decode_uint8(image: bytes, size: int) -> Tensor:
    """Encoded picture -> uint8 (3, size, size), the middle square; one of UNDECODABLE if it is broken.

    Large JPEGs are decoded at a fraction of their scale, never below twice `size`.
    """
    picture = Image.open(io.BytesIO(image))
    picture.draft("RGB", (2 * size, 2 * size))
    pixels_HWC = np.array(fit_square(to_rgb(picture), size))
    return torch.from_numpy(pixels_HWC).permute(2, 0, 1).contiguous()


def normalize(images_BCHW: Tensor) -> Tensor:
    """0..1 -> -1..1: mean 0.5, standard deviation 0.5, in place."""
    return images_BCHW.sub_(MEAN).div_(STD)


class Preprocess:
    """What evaluation and users do to a picture: PIL image or encoded bytes -> float32 (3, image_size, image_size) in -1..1."""

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size

    def __call__(self, image: Image.Image | bytes) -> Tensor:
        """Middle square of `image`, normalised; UserError if bytes cannot be decoded."""
        try:
            picture = Image.open(io.BytesIO(image)) if isinstance(image, bytes) else image
            square = fit_square(to_rgb(picture), self.image_size)
        except UNDECODABLE as error:
            raise UserError(f"the picture cannot be decoded: {error}") from None
        pixels_HWC = torch.from_numpy(np.array(square)).to(torch.float32).div_(255)
        return normalize(pixels_HWC.permute(2, 0, 1).contiguous())

    def to_dict(self) -> dict[str, Any]:
        """The content of preprocess.json."""
        return {
            "image_size": self.image_size,
            "resize": "shortest side, then the middle square",
            "interpolation": "bicubic, antialiased",
            "transparency": "on white",
            "mean": MEAN,
            "std": STD,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocess:
        """The inverse of `to_dict`; UserError if `values` describe another preprocessing than this class does."""
        size = values.get("image_size")
        if not isinstance(size, int) or size < 1 or values != cls(size).to_dict():
            raise UserError(f"preprocess.json: {values} is not a preprocessing that this version knows")
        return cls(size)


def draw(batch: int, generator: Generator) -> Tensor:
    """(B, 7) uniform on [0, 1): what `augment` needs to know of chance, for so many pictures."""
    return torch.cat([torch.rand(batch, numbers, generator=generator, dtype=torch.float32) for numbers in (4, 3)], dim=1)


def augment(images_BCHW: Tensor, size: int, draws_B7: Tensor, crop_scale: float = 1.0, color_jitter: float = 0.0) -> Tensor:
    """Random crops resized to `size` px, then colour jitter: uint8 (B, 3, S, S) -> float32 0..1 (B, 3, size, size).

    The crop keeps a share of the area uniform in [crop_scale, 1], of aspect 3/4 to 4/3. Brightness, contrast and saturation are
    scaled, in this order, by factors uniform in [1 - color_jitter, 1 + color_jitter]. Never flipped: captions say left and right.
    What a picture becomes depends on its own draws alone.
    """
    batch = len(images_BCHW)
    uniform_B4, uniform_B3 = draws_B7.split([4, 3], dim=1)  # type: ignore[no-untyped-call]
    boxes_B4 = crop_boxes(uniform_B4, crop_scale)
    factors_B3 = 1 + color_jitter * (2 * uniform_B3 - 1)
    output = torch.empty(batch, 3, size, size, dtype=torch.float32)
    for start in range(0, batch, CHUNK):
        part = slice(start, start + CHUNK)
        images = resample(images_BCHW[part].to(torch.float32).div_(255), boxes_B4[part], size)
        output[part] = jitter(images, factors_B3[part]) if color_jitter else images
    return output


def crop_boxes(uniform_B4: Tensor, crop_scale: float) -> Tensor:
    """Boxes (left, top, width, height) as shares of the side, float32 (B, 4), from uniform draws (area, aspect, left, top).

    The aspect is drawn only from where the box fits into the picture, so the area is exact and nothing is drawn twice.
    """
    area_B = crop_scale + (1 - crop_scale) * uniform_B4[:, 0]
    low_B = area_B.clamp_min(ASPECT_RATIOS[0]).log()
    high_B = area_B.reciprocal().clamp_max(ASPECT_RATIOS[1]).log()
    aspect_B = (low_B + (high_B - low_B) * uniform_B4[:, 1]).exp()
    width_B = (area_B * aspect_B).sqrt().clamp_max(1)
    height_B = (area_B / aspect_B).sqrt().clamp_max(1)
    return torch.stack([uniform_B4[:, 2] * (1 - width_B), uniform_B4[:, 3] * (1 - height_B), width_B, height_B], dim=1)


def resample(images_BCHW: Tensor, boxes_B4: Tensor, size: int) -> Tensor:
    """Each picture's box (shares of the side) resized to size x size px, clamped to 0..1, as Pillow's resize(box=...) does."""
    batch, channels, height, width = images_BCHW.shape
    if (height, width) == (size, size) and bool((boxes_B4[:, 2:] == 1).all()):
        return images_BCHW
    across_BOW = resize_matrix(boxes_B4[:, 0] * width, boxes_B4[:, 2] * width, width, size)
    down_BOH = resize_matrix(boxes_B4[:, 1] * height, boxes_B4[:, 3] * height, height, size)
    rows = torch.bmm(images_BCHW.reshape(batch, channels * height, width), across_BOW.mT)
    return torch.matmul(down_BOH[:, None], rows.view(batch, channels, height, size)).clamp_(0, 1)


def resize_matrix(start_B: Tensor, length_B: Tensor, stored: int, size: int) -> Tensor:
    """(B, size, stored): row o weighs the stored pixels whose sum is output pixel o of [start, start + length) px; rows sum to 1.

    The weights are Pillow's bicubic filter (a = -1/2), widened by the scale when the picture shrinks.
    """
    step_B = (length_B / size)[:, None]
    centre_BO = start_B[:, None] + (torch.arange(size, dtype=start_B.dtype) + 0.5) * step_B
    distance_BOS = (torch.arange(stored, dtype=start_B.dtype) + 0.5 - centre_BO[:, :, None]).abs_()
    weights_BOS = bicubic(distance_BOS.div_(step_B.clamp_min(1)[:, :, None]))
    return weights_BOS.div_(weights_BOS.sum(-1, keepdim=True))


def bicubic(distance: Tensor) -> Tensor:
    """Keys' kernel with a = -1/2: 1.5 d^3 - 2.5 d^2 + 1 for d < 1, -0.5 d^3 + 2.5 d^2 - 4 d + 2 for d < 2, else 0.

    Each piece is 0 at the end where it is clamped, so their sum needs no branch.
    """
    near = distance.clamp(max=1)
    far = distance.clamp(min=1, max=2)
    near_value = ((1.5 * near).sub_(2.5)).mul_(near).mul_(near).add_(1)
    return (((-0.5 * far).add_(2.5)).mul_(far).sub_(4)).mul_(far).add_(2).add_(near_value)


def jitter(images_BCHW: Tensor, factors_B3: Tensor) -> Tensor:
    """Brightness, contrast, saturation scaled by each picture's three factors, in place: 0..1 stays in 0..1.

    Brightness scales the picture; contrast moves it from its mean grey, saturation each pixel from its own grey.
    """
    brightness, contrast, saturation = factors_B3[:, :, None, None, None].unbind(1)
    images_BCHW.mul_(brightness).clamp_(0, 1)
    mean_B111 = grey(images_BCHW).mean((1, 2, 3), keepdim=True)
    images_BCHW.sub_(mean_B111).mul_(contrast).add_(mean_B111).clamp_(0, 1)
    grey_B1HW = grey(images_BCHW)
    return images_BCHW.sub_(grey_B1HW).mul_(saturation).add_(grey_B1HW).clamp_(0, 1)


def grey(images_BCHW: Tensor) -> Tensor:
    """Luminance, (B, 1, H, W)."""
    red, green, blue = images_BCHW[:, :1], images_BCHW[:, 1:2], images_BCHW[:, 2:]
    return (GREY_WEIGHTS[0] * red).add_(green, alpha=GREY_WEIGHTS[1]).add_(blue, alpha=GREY_WEIGHTS[2])


def stored_size(size: int, crop_scale: float, limit: float = 2.0) -> int:
    """Side in px at which a picture is kept: its smallest square crop then has `size` px, unless `limit` times `size` is less."""
    return math.ceil(size * min(limit, 1 / math.sqrt(crop_scale)))
