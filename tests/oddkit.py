"""Pictures that nobody would send in good faith, and honest ones of rare kinds, each written here: name to bytes."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, ImageCms

WIDTH, HEIGHT = 20, 16
RED = Image.new("RGB", (WIDTH, HEIGHT), (255, 0, 0))
BLUE = Image.new("RGB", (WIDTH, HEIGHT), (0, 0, 255))
ROWS = (b"\0" + bytes((255, 0, 0)) * WIDTH) * HEIGHT  # of RED, as PNG has them


def saved(image: Image.Image, fmt: str, **options: Any) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, fmt, **options)
    return encoded.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int = WIDTH, height: int = HEIGHT, depth: int = 8, colours: int = 2, rows: bytes = ROWS, *further: bytes) -> bytes:
    """A PNG by hand. colours: 0 grey, 2 RGB. further: chunks before the pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0))
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + header + b"".join(further) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def turned(orientation: int) -> dict[str, Any]:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif}


def lab(image: Image.Image) -> Image.Image:
    profiles = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
    found = ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
    assert found is not None
    return found


def scans(count: int) -> bytes:
    """A progressive JPEG whose last scan, a few bytes, comes so many times."""
    image = saved(Image.new("L", (1000, 1000), 128), "JPEG", progressive=True)
    last = image[image.rindex(b"\xff\xda") : -2]
    return image[:-2] + last * count + image[-2:]


def bad_texts(size: int) -> bytes:
    return chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(size)))


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ENDLESS = chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))
ANIMATED = {"save_all": True, "append_images": [BLUE] * 3}
HONEST = {  # all of them RED, but for rounding
    "animated GIF": saved(RED, "GIF", **ANIMATED),
    "animated PNG": saved(RED, "PNG", **ANIMATED),
    "animated WebP": saved(RED, "WEBP", lossless=True, **ANIMATED),
    "TIFF of 300 pages": saved(RED, "TIFF", save_all=True, append_images=[BLUE] * 299),
    "camera's two pictures": saved(RED, "MPO", save_all=True, append_images=[BLUE]),
    "PNG of 16 bits": png(depth=16, rows=(b"\0" + b"\xff\xff\0\0\0\0" * WIDTH) * HEIGHT),
    "PPM of 16 bits": b"P6\n20 16\n65535\n" + b"\xff\xff\0\0\0\0" * WIDTH * HEIGHT,
    "PPM as text": b"P3\n# made by hand\n20 16\n255\n" + b"255 0 0 " * WIDTH * HEIGHT,
    "CMYK JPEG": saved(RED.convert("CMYK"), "JPEG", quality=100),
    "CMYK TIFF": saved(RED.convert("CMYK"), "TIFF"),
    "LAB TIFF": saved(lab(RED), "TIFF"),
    "palette": saved(RED.quantize(4), "PNG"),
    "ICC profile": saved(RED, "JPEG", quality=100, icc_profile=SRGB),
    "broken ICC profile": saved(RED, "JPEG", quality=100, icc_profile=b"no profile" * 90),
    "TIFF with a tag of 5 MB": saved(RED, "TIFF", tiffinfo={270: "x" * 5_000_000}),
    "EXIF of an unknown orientation": saved(RED, "JPEG", quality=100, **turned(9)),
    "pixels for a larger picture": png(rows=ROWS + bytes(100_000_000)),
    "endless animation": png(WIDTH, HEIGHT, 8, 2, ROWS, ENDLESS),
}
EVIL = {  # with the reason for which each is refused
    "100 megapixels in 12 kB": (png(10_000, 10_000, 1, 0, bytes(1251) * 10_000), "too-many-pixels"),
    "PNG of 2^62 pixels": (png(2**31 - 1, 2**31 - 1), "too-many-pixels"),
    "JPEG of 65,500 px a side": (
        saved(RED, "JPEG").replace(struct.pack(">HH", HEIGHT, WIDTH), struct.pack(">HH", 65_500, 65_500), 1),
        "too-many-pixels",
    ),
    "GIF whose frame exceeds its screen": (
        b"GIF89a" + struct.pack("<HHBBB", 10, 10, 0x80, 0, 0) + bytes(6) + b"," + struct.pack("<4HB", 0, 0, 65_000, 65_000, 0),
        "too-many-pixels",
    ),
    "WebP of 16,383 px a side in 34 bytes": (
        bytes.fromhex("524946461a000000574542505650384c0e0000002ffebfff0f071011fd0f4444ff03"),
        "too-many-pixels",
    ),
    "text that inflates to 100 MB": (png(WIDTH, HEIGHT, 8, 2, ROWS, bad_texts(100_000_000)), "undecodable"),
    "profile that inflates to 100 MB": (
        png(WIDTH, HEIGHT, 8, 2, ROWS, chunk(b"iCCP", b"key\0\0" + zlib.compress(bytes(100_000_000)))),
        "undecodable",
    ),
    "chunk longer than the file": (
        png()[:33] + struct.pack(">I", 2**31 - 1) + b"tEXt" + bytes(99),
        "truncated",
    ),
    "a million empty chunks": (png()[:33] + chunk(b"abCd", b"") * 1_000_000, "undecodable"),
    "JPEG header of 20 MB of fill bytes": (b"\xff\xd8" + b"\xff" * 20_000_000, "undecodable"),
    "PPM header with a comment of 20 MB": (b"P6\n#" + bytes(20_000_000), "undecodable"),
    "3,000 scans in 40 kB": (scans(3_000), "too-many-scans"),
    "floating-point pixels": (saved(Image.fromarray(np.full((HEIGHT, WIDTH), 0.5, np.float32)), "TIFF"), "undecodable"),
}
