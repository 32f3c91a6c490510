"""Pictures of rare kinds become the records that they should; bombs are refused with a reason, little memory and little time."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from oddkit import EVIL, HONEST, RED, chunk, png, saved, scans, turned
from PIL import Image

from limoe.data import verify
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
