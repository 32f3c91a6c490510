"""Whether an encoded picture decodes to its end, and how large it is: the check that every foreign picture passes through."""

from __future__ import annotations

import io
import struct
import warnings

from PIL import Image

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # none whose decoder starts another program, as EPS does


class BadImage(Exception):
    """A picture that cannot enter the set. reason: short and stable; detail: what exactly was wrong."""

    def __init__(self, reason: str, detail: str) -> None:
        """Reason and detail as in sources.Rejected."""
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def measure(image: bytes, max_pixels: int) -> tuple[int, int]:
    """(width, height) in px of a picture that decodes to its end; BadImage says why it does not.

    The header is read first, and a picture that claims more than `max_pixels` is refused before anything is decoded.
    """
    if not image:
        raise BadImage("zero-size", "0 bytes")
    if claimed := _claimed_size(image):
        _check_size(*claimed, max_pixels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd metadata, and Pillow's own limit: ours is max_pixels
        return _decode(image, max_pixels)


def _decode(image: bytes, max_pixels: int) -> tuple[int, int]:
    try:
        opened = Image.open(io.BytesIO(image), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise BadImage("too-many-pixels", str(error)) from None
    except Exception as error:  # Pillow's readers raise whatever their parsing stumbles over
        raise _bad(error, image) from None
    _check_size(*opened.size, max_pixels)
    try:
        opened.load()
    except Exception as error:  # likewise
        raise _bad(error, image) from None
    return opened.size


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if not width * height:
        raise BadImage("zero-size", f"{width} x {height} px")
    if width * height > max_pixels:
        raise BadImage("too-many-pixels", f"{width} x {height} px, prepare.max_pixels allows {max_pixels}")


def _claimed_size(image: bytes) -> tuple[int, int] | None:
    """What the header of a PNG or GIF says: Pillow takes one that says 0 for no picture at all."""
    if image.startswith(b"\x89PNG\r\n\x1a\n") and len(image) >= 24:
        width, height = struct.unpack(">II", image[16:24])
        return width, height
    if image.startswith((b"GIF87a", b"GIF89a")) and len(image) >= 10:
        width, height = struct.unpack("<HH", image[6:10])
        return width, height
    return None


def _bad(error: Exception, image: bytes) -> BadImage:
    """What Pillow's error means; never with the address of a buffer in it, which differs from run to run."""
    if image.startswith(b"RIFF") and len(image) < 8 + int.from_bytes(image[4:8], "little"):
        return BadImage("truncated", "shorter than its header says")  # Pillow only says that WebP cannot be decoded
    if "cannot identify image file" in str(error):
        return BadImage("undecodable", f"no picture of a known format ({', '.join(FORMATS)})")
    reason = "truncated" if "truncated" in str(error).lower() else "undecodable"
    return BadImage(reason, f"{type(error).__name__}: {error}")
