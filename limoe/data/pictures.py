"""How pictures are stored: smaller, in another format, or as they came."""

from __future__ import annotations

import io

from PIL import Image

from limoe.config import PictureParams
from limoe.data.rgb import UNDECODABLE, open_encoded, to_rgb
from limoe.data.verify import BadImage

FORMATS = {"jpeg": "JPEG", "webp": "WEBP", "png": "PNG"}
KEPT = {"JPEG": "JPEG", "MPO": "JPEG", "WEBP": "WEBP"}  # MPO: a JPEG with others behind it, as telephones write


def stored(image: bytes, size: tuple[int, int], params: PictureParams) -> tuple[bytes, tuple[int, int]]:
    """The encoded picture of this size (width, height in px) as the params want it, and its size then.

    The very same bytes if nothing is to be done. Else upright RGB without metadata, scaled down with Pillow's antialiased bicubic
    filter until the shortest side is right (never up, and never cropped); what keeps its format but is no JPEG or WebP becomes
    PNG. BadImage if the picture cannot be decoded, or not encoded so.
    """
    side = params.shortest_side if min(size) > (params.shortest_side or min(size)) else None
    if side is None and params.encode == "keep":
        return image, size
    try:
        opened = open_encoded(image)
        kept = KEPT.get(opened.format or "", "PNG")
        if side is not None:
            opened.draft("RGB", (2 * side, 2 * side))  # a large JPEG is decoded at a fraction of its scale
        picture = to_rgb(opened)
    except UNDECODABLE as error:
        raise BadImage("undecodable", f"{type(error).__name__}: {error}") from None
    if side is not None:
        picture = _shrunk(picture, side)
    picture.info.clear()  # a profile of what it was, CMYK say
    return _encoded(picture, FORMATS.get(params.encode, kept), params.quality), picture.size


def _shrunk(picture: Image.Image, side: int) -> Image.Image:
    short = min(picture.size)
    width, height = (max(side, round(side * length / short)) for length in picture.size)
    return picture.resize((width, height), Image.Resampling.BICUBIC)


def _encoded(picture: Image.Image, form: str, quality: int) -> bytes:
    encoded = io.BytesIO()
    try:
        picture.save(encoded, form, **({} if form == "PNG" else {"quality": quality}))
    except (OSError, ValueError) as error:
        raise BadImage("not-encodable", f"{picture.width} x {picture.height} px as {form}: {error}") from None
    return encoded.getvalue()
