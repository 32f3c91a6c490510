"""Whether an encoded picture decodes to its end, and how large it is: the check that every foreign picture passes through.

Of an animation or a file of several pages that is the first picture. What is bounded, whatever the bytes are: pixels, by their
header; memory, by the pixels and the bytes; work, by the reads of Pillow's parsers, which some headers drive a byte at a time,
and by the scans of a JPEG, each of which may be a few bytes that go over the whole picture.
"""

from __future__ import annotations

import io
import struct
import warnings

from PIL import Image

from limoe.data.rgb import FORMATS, to_rgb

MOST_READS = 200_000  # of one picture: a fraction of a second; the largest that are allowed need a tenth of it
MOST_SCANS = 100  # of a JPEG; encoders write 10


class BadImage(Exception):
    """A picture that cannot enter the set. reason: short and stable; detail: what exactly was wrong."""

    def __init__(self, reason: str, detail: str) -> None:
        """Reason and detail as in sources.Rejected."""
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def measure(image: bytes, max_pixels: int) -> tuple[int, int]:
    """(width, height) in px of a picture, upright, that decodes to its end and becomes RGB; BadImage says why it does not.

    The header is read first, and a picture that claims more than `max_pixels` is refused before anything is decoded. So a
    MemoryError is of a machine that has too little memory, and no fault of the picture's.
    """
    if not image:
        raise BadImage("zero-size", "0 bytes")
    if claimed := _claimed_size(image):
        _check_size(*claimed, max_pixels)
    if image.startswith(b"\xff\xd8") and (scans := image.count(b"\xff\xda")) > MOST_SCANS:
        raise BadImage("too-many-scans", f"a JPEG of {scans} scans; allowed are {MOST_SCANS}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd metadata, and Pillow's own limit: ours is max_pixels
        return _decode(image, max_pixels)


def _decode(image: bytes, max_pixels: int) -> tuple[int, int]:
    try:
        opened = Image.open(_Bounded(image), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise BadImage("too-many-pixels", str(error)) from None
    except MemoryError:
        raise  # sizes are bounded, so that is the machine's fault
    except Exception as error:  # Pillow's readers raise whatever their parsing stumbles over
        raise _bad(error, image) from None
    _check_size(*opened.size, max_pixels)
    try:
        opened.load()
        _check_mode(opened.mode)
        return to_rgb(opened).size
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # likewise
        raise _bad(error, image) from None


class _Bounded(io.BytesIO):
    """A file in memory that may be read so many times."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self._left = MOST_READS

    def read(self, size: int | None = -1) -> bytes:
        """Like any file's; OSError when it has been read too often."""
        self._left -= 1
        if self._left < 0:
            raise OSError(f"its header or its chunks need more than {MOST_READS} reads")
        return super().read(size)


def _check_mode(mode: str) -> None:
    if mode == "F":
        raise BadImage("undecodable", "floating-point pixels, of which nothing says what is black and what is white")


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
