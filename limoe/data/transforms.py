"""From encoded pictures to pixels: one exact path for evaluation, one quick path for training (then limoe.data.augment).

Axes: B pictures, C = 3 colour channels, H height, W width, S side of a square, all in px.

Both resize with the same antialiased bicubic filter, the exact path by Pillow, the quick one by torch, whose vector code for
8-bit pictures takes a quarter of the time and differs by one level of 255 at most. The quick path decodes large JPEGs at a
fraction of their scale.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from limoe.data.rgb import UNDECODABLE, open_encoded, to_rgb
from limoe.errors import UserError
from limoe.files import read_json

MEAN = STD = 0.5
LONGEST = 4  # a picture is cut to so many times its shorter side before it is resized, or a line of pixels would fill the memory


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
    if (width, height) == image.size:
        return image
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def decode_uint8(image: bytes, size: int) -> Tensor:
    """Encoded picture -> uint8 (3, size, size), its middle square resized; one of UNDECODABLE if it is broken."""
    return resized(decode_square(image, size), size)


def decode_square(image: bytes, size: int) -> Tensor:
    """Encoded picture -> uint8 (3, S, S), its middle square; one of UNDECODABLE if it is broken.

    S is the shorter side, or of a JPEG a half, a quarter or an eighth of it, the least that is not below 2 * `size`.
    """
    file = open_encoded(image)
    file.draft("RGB", (2 * size, 2 * size))
    picture = to_rgb(file)
    return torch.from_numpy(np.array(_middle(picture, min(picture.size)))).permute(2, 0, 1)


def resized(pixels_CHW: Tensor, size: int) -> Tensor:
    """uint8 (3, H, W) -> uint8 (3, size, size)."""
    if pixels_CHW.shape[1:] == (size, size):
        return pixels_CHW
    return F.interpolate(pixels_CHW[None], (size, size), mode="bicubic", antialias=True)[0]


def normalize(images_BCHW: Tensor) -> Tensor:
    """0..1 -> -1..1: mean 0.5, standard deviation 0.5, in place."""
    return images_BCHW.sub_(MEAN).div_(STD)


class Preprocess:
    """What evaluation and users do to a picture: PIL image or encoded bytes -> float32 (3, image_size, image_size) in -1..1."""

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size

    def __call__(self, image: Image.Image | bytes) -> Tensor:
        """Middle square of `image`, normalised; UserError if bytes cannot be decoded, or it is neither."""
        if not isinstance(image, Image.Image | bytes):
            raise UserError(f"{image!r} is no picture: a PIL image or the bytes of a file are wanted")
        try:
            picture = open_encoded(image) if isinstance(image, bytes) else image
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
    def load(cls, path: Path) -> Preprocess:
        """Open a file of what `to_dict` gives; UserError if it is missing, or of another preprocessing than this class does."""
        values = read_json(path)
        size = values.get("image_size") if isinstance(values, dict) else None
        if type(size) is not int or size < 1 or values != cls(size).to_dict():
            raise UserError(f"{path}: no preprocessing that this version knows")
        return cls(size)
