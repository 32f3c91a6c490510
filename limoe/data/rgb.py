"""What every reader makes of a picture of any kind: upright RGB of 8 bits a channel. No torch here: `prepare` does without."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # none whose decoder starts another program, as EPS does
ORIENTATION_TAG = 0x0112
UNDECODABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises for a broken picture


def open_encoded(image: bytes) -> Image.Image:
    """The encoded picture, not yet decoded; one of UNDECODABLE if it is none of FORMATS.

    Every reader opens it so: a file may be made that is a picture of another format, too, and is taken for that one elsewhere.
    """
    return Image.open(io.BytesIO(image), formats=FORMATS)


def to_rgb(image: Image.Image) -> Image.Image:
    """`image` upright (its EXIF orientation applied) as 8-bit RGB; transparency on white, 16-bit grey scaled to 8."""
    if image.getexif().get(ORIENTATION_TAG, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 256).astype(np.uint8))
    return image.convert("RGB")
