"""Whole files of every kind that is read, and what may have happened to them: bits, words, cuts, repeats, splices."""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

WORDS = (b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\0\x01", b"\xff\xda")


def seeds() -> Mapping[str, Sequence[bytes]]:
    """Whole files by kind."""
    pictures = list(_pictures())
    return {
        "picture": pictures,
        "webdataset": [_tar(pictures)],
        "parquet": [_parquet(pictures)],
        "coco": [_coco()],
        "flickr": _tokens(),
        "csv": [_tokens()[1]],
        "jsonl": [_lines()],
    }


class Damage:
    """Damaged copies of whole files, the same ones for the same seed."""

    def __init__(self, files: Sequence[bytes], seed: int) -> None:
        self._files, self._chance = files, random.Random(seed)
        self._ways = (self._flip, self._flip, self._word, self._word, self._cut, self._drop, self._repeat, self._splice)

    def one(self) -> bytes:
        """One of the files, damaged once to six times."""
        content = bytearray(self._chance.choice(self._files))
        for _ in range(self._chance.randint(1, 6)):
            self._chance.choice(self._ways)(content)
        return bytes(content)

    def _place(self, content: bytes | bytearray) -> int:
        return self._chance.randrange(len(content) + 1)

    def _flip(self, content: bytearray) -> None:
        if content:
            content[self._chance.randrange(len(content))] ^= 1 << self._chance.randrange(8)

    def _word(self, content: bytearray) -> None:
        word, place = self._chance.choice(WORDS), self._place(content)
        content[place : place + len(word)] = word

    def _cut(self, content: bytearray) -> None:
        del content[self._place(content) :]

    def _drop(self, content: bytearray) -> None:
        start = self._place(content)
        del content[start : start + self._chance.randint(1, 64)]

    def _repeat(self, content: bytearray) -> None:
        start = self._place(content)
        content[start:start] = content[start : start + self._chance.randint(1, 64)] * self._chance.choice((1, 2, 50))

    def _splice(self, content: bytearray) -> None:
        """It goes on as another file does."""
        other = self._chance.choice(self._files)
        content[self._place(content) :] = other[self._place(other) :]


def _noise(mode: str = "RGB", size: tuple[int, int] = (20, 16)) -> Image.Image:
    length = size[0] * size[1] * len(Image.new(mode, (1, 1)).tobytes())
    return Image.frombytes(mode, size, random.Random(mode).randbytes(length)) if mode != "1" else Image.new("1", size, 1)


def _saved(image: Image.Image, form: str, **options: object) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, form, **options)  # type: ignore[arg-type]
    return encoded.getvalue()


def _pictures() -> Iterator[bytes]:
    """Every format, every mode that it has, turned, animated, progressive, with a profile."""
    modes = {
        "JPEG": ("RGB", "L", "CMYK"),
        "PNG": ("RGB", "RGBA", "L", "LA", "I;16", "1"),
        "GIF": ("RGB", "L"),
        "TIFF": ("RGB", "RGBA", "L", "CMYK", "LAB", "I;16", "1"),
        "WEBP": ("RGB", "RGBA"),
        "BMP": ("RGB", "L", "1"),
        "PPM": ("RGB", "L", "1"),
    }
    for form, kinds in modes.items():
        yield from (_saved(_noise(mode), form) for mode in kinds)
    turned = Image.Exif()
    turned[0x0112] = 6
    yield from (_saved(_noise(), form, exif=turned, icc_profile=b"p" * 200) for form in ("JPEG", "PNG", "WEBP", "TIFF"))
    yield from (_saved(_noise(), form, save_all=True, append_images=[_noise()] * 2) for form in ("GIF", "PNG", "WEBP", "TIFF"))
    yield _saved(_noise(), "JPEG", progressive=True)
    yield from (_saved(_noise(), "TIFF", compression=how) for how in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"))


def _tar(pictures: Sequence[bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for number, picture in enumerate(pictures[:4]):
            told = json.dumps({"captions": [f"caption {number}", "näher"], "label": "cat"}).encode()
            for suffix, content in (("jpg", picture), ("json", told)):
                member = tarfile.TarInfo(f"{number}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def _parquet(pictures: Sequence[bytes]) -> bytes:
    packed = io.BytesIO()
    images = [{"bytes": picture, "path": "a.jpg"} for picture in pictures[:4]]
    pq.write_table(pa.table({"image": images, "captions": [["a", "b"]] * 4}), packed, row_group_size=2)
    return packed.getvalue()


def _coco() -> bytes:
    images = [{"id": number, "file_name": f"{number}.jpg"} for number in range(3)]
    told = [{"image_id": number % 3, "id": number, "caption": f"caption {number}"} for number in range(6)]
    return json.dumps({"images": images, "annotations": told}).encode()


def _tokens() -> list[bytes]:
    lines = "".join(f"{number % 3}.jpg#{number // 3}\tcaption {number}\n" for number in range(6))
    table = "image,caption\n" + "".join(f'{number % 3}.jpg,"caption, {number}"\n' for number in range(6))
    return [lines.encode(), table.encode()]


def _lines() -> bytes:
    rows = [
        {"image": f"{number % 3}.jpg", "caption": f"caption {number}", "label": number % 3, "group": "g"} for number in range(6)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
