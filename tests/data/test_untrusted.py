"""Pictures and captions of rare kinds become the records that they should; bombs are refused with a reason, at little cost."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from oddkit import EVIL, HONEST, RED, chunk, png, saved, scans, turned
from PIL import Image
from preparekit import ListedSource, candidate, ingested, params_with

from limoe.config import PictureParams
from limoe.data import verify
from limoe.data.duplicates import hash_encoded
from limoe.data.pictures import stored
from limoe.data.prepared import Prepared
from limoe.data.rgb import to_rgb
from limoe.data.transforms import decode_uint8
from limoe.data.verify import BadImage, measure

MAX_PIXELS = 50_000_000
MEMORY = 1 << 30  # of a process that may decode 50 megapixels, its libraries included


@pytest.mark.parametrize("name", HONEST)
def test_a_rare_kind_is_the_picture_that_it_shows(name: str) -> None:
    image = HONEST[name]
    assert measure(image, MAX_PIXELS) == RED.size
    pixels = np.asarray(to_rgb(Image.open(io.BytesIO(image))), dtype=int)
    assert np.abs(pixels - (255, 0, 0)).max() <= 5
    assert np.abs(decode_uint8(image, 8).permute(1, 2, 0).numpy().astype(int) - (255, 0, 0)).max() <= 5


@pytest.mark.parametrize("name", EVIL)
def test_an_evil_picture_is_refused_with_its_reason(name: str) -> None:
    image, reason = EVIL[name]
    with pytest.raises(BadImage) as caught:
        measure(image, MAX_PIXELS)
    assert caught.value.reason == reason


def test_a_picture_that_is_one_of_another_format_too_is_the_same_for_every_reader() -> None:
    """A WebP with PhotoCD's mark where that format has it: Pillow asks PhotoCD's reader first, unless told not to."""
    photo = Image.effect_noise((40, 40), 90).convert("RGB")
    for shift in range(8):
        image = saved(photo, "WEBP", lossless=True, icc_profile=bytes(shift) + b"PCD_" * 1000)
        if image[2048:2052] == b"PCD_":
            break
    assert Image.open(io.BytesIO(image), formats=["PCD"]).size == (768, 512)
    assert measure(image, MAX_PIXELS) == (40, 40)
    plain = saved(photo, "WEBP", lossless=True)
    assert hash_encoded(image) == hash_encoded(plain)
    assert decode_uint8(image, 8).equal(decode_uint8(plain, 8))
    anew = PictureParams(shortest_side=16, encode="png", quality=90)
    assert stored(image, (40, 40), anew) == stored(plain, (40, 40), anew)


def test_bombs_end_within_a_gigabyte_and_some_seconds() -> None:
    """Each allocation beyond it would be a MemoryError there, and the clock of the process is limited."""
    code = (
        "import resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY}))\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (20, 20))\n"
        "from limoe.data.verify import BadImage, measure\n"
        "from oddkit import EVIL, HONEST, png\n"
        "measure(png(7_000, 7_000, 1, 0, bytes(876) * 7_000), 50_000_000)\n"
        "for image in HONEST.values():\n"
        "    measure(image, 50_000_000)\n"
        "for image, reason in EVIL.values():\n"
        "    try:\n"
        "        measure(image, 50_000_000)\n"
        "    except BadImage as error:\n"
        "        assert error.reason == reason and 'MemoryError' not in error.detail, error\n"
    )
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": f"{tests}:{tests.parent}", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("where", ["Image.open", "to_rgb"])
def test_a_machine_without_memory_is_no_broken_picture(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError

    image = saved(RED, "PNG")
    monkeypatch.setattr(f"limoe.data.verify.{where}", exhausted)
    with pytest.raises(MemoryError):
        measure(image, MAX_PIXELS)
    with pytest.raises(BadImage, match="too-many-pixels"):  # told by its size, before
        measure(image, RED.width * RED.height - 1)


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation,size", [(1, (20, 16)), (3, (20, 16)), (6, (16, 20)), (8, (16, 20))])
def test_the_size_is_that_of_the_upright_picture(fmt: str, orientation: int, size: tuple[int, int]) -> None:
    image = saved(RED, fmt, **turned(orientation))
    assert measure(image, MAX_PIXELS) == size == to_rgb(Image.open(io.BytesIO(image))).size


def test_as_many_scans_as_encoders_write_are_allowed() -> None:
    assert measure(scans(verify.MOST_SCANS - 10), MAX_PIXELS) == (1000, 1000)


def test_a_grey_picture_of_16_bits_with_a_transparent_grey_is_a_picture() -> None:
    rows = (b"\0" + b"\x80\x00" * 20) * 16
    grey = png(20, 16, 16, 0, rows, chunk(b"tRNS", b"\x80\x00"))
    assert measure(grey, MAX_PIXELS) == (20, 16)
    assert to_rgb(Image.open(io.BytesIO(grey))).getpixel((0, 0)) == (255, 255, 255)


STRANGE = {
    "nul": "a\0cat",
    "right to left": "\u05d7\u05ea\u05d5\u05dc \u202e on a sofa",
    "emoji": "\U0001f468\U0001f3fd\u200d\U0001f9b0 waves \U0001f44b",
    "marks": "e" + "\u0301" * 500,
    "one word": "x" * 10_000,
    "control": "\x01\x7f\u2028\ufeff",
}
WRONG = {
    "megabyte": ("word " * 200_000, "caption-length"),
    "megabyte in one word": ("x" * 1_000_000, "caption-length"),
    "half a pair": ("cat \ud83d", "bad-caption"),
    "spaces": ("\u3000 \t\n", "empty-caption"),
}


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_strange_caption_is_a_record_or_refused(tmp_path: Path, kind: str) -> None:
    items = [candidate(name, captions=(caption,)) for name, caption in STRANGE.items()]
    items += [candidate(name, captions=(caption,)) for name, (caption, _) in WRONG.items()]
    params = params_with(f"prepare.tokenizer.kind={kind}", "prepare.tokenizer.vocab_size=200").prepare
    ingested({"listed": ListedSource(items)}, params, tmp_path / "out")
    prepared = Prepared(tmp_path / "out")
    rows = prepared.table("train", ["key", "captions"]).to_pylist()
    assert {row["key"]: row["captions"] for row in rows} == {name: [caption] for name, caption in STRANGE.items()}
    rejected = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    assert {row["key"]: row["reason"] for row in rejected} == {name: reason for name, (_, reason) in WRONG.items()}
    for ids in prepared.tokenizer.encode(list(STRANGE.values()), 8):
        assert 1 <= len(ids) <= 8
        assert ids[-1] == prepared.tokenizer.eos_id
