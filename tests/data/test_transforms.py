"""Preprocessing against torchvision, quick decoding against Pillow."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from picturekit import encoded, picture
from PIL import Image

from limoe.data.rgb import to_rgb
from limoe.data.transforms import Preprocess, decode_square, decode_uint8, fit_square, normalize, resized
from limoe.errors import UserError
from limoe.files import write_json


@pytest.mark.parametrize("width, height", [(72, 72), (91, 64), (64, 91), (48, 48), (33, 97), (20, 31)])
def test_preprocess_equals_torchvision(width: int, height: int) -> None:
    from torchvision.transforms import v2

    image = picture(width, height)
    theirs = v2.Compose(
        [
            v2.Resize(48, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.CenterCrop(48),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )(image)
    ours = Preprocess(48)(encoded(image))
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(Preprocess(48)(image), theirs)


@pytest.mark.parametrize("turned", [False, True])
def test_a_thin_picture_is_cut_before_it_is_enlarged(turned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def spy(self: Image.Image, size: tuple[int, int], *rest: Any) -> Image.Image:
        asked.append(size)
        assert max(size) <= 4 * 48, size  # at its full length this one would take gigabytes
        return resize(self, size, *rest)

    thin = Image.new("RGB", (100_000, 1), "red")
    thin.paste((0, 0, 255), (50_000, 0, 100_000, 1))
    monkeypatch.setattr(Image.Image, "resize", spy)
    square = fit_square(thin.transpose(Image.Transpose.TRANSPOSE) if turned else thin, 48)
    assert asked
    assert square.size == (48, 48)
    ends = np.array([square.getpixel(end[::-1] if turned else end) for end in ((0, 24), (47, 24))])
    np.testing.assert_allclose(ends, [(255, 0, 0), (0, 0, 255)], atol=2)


@pytest.mark.parametrize("width, height", [(300, 50), (50, 300), (251, 50)])
def test_a_long_picture_keeps_the_pixels_of_its_middle(width: int, height: int) -> None:
    image = picture(width, height)
    long, short = max(width, height), min(width, height)
    scaled = image.resize((48 * width // short, 48 * height // short), Image.Resampling.BICUBIC)
    start = round((48 * long // short - 48) / 2)
    middle = scaled.crop((start, 0, start + 48, 48) if width > height else (0, start, 48, start + 48))
    difference = np.abs(np.asarray(fit_square(image, 48)).astype(int) - np.asarray(middle))
    assert difference.max() <= (1 if long % 2 == 0 else 8)  # an odd rest shifts it by half a pixel


def test_transparency_lies_on_white() -> None:
    half_red = Image.new("RGBA", (8, 8), (255, 0, 0, 128))
    clear = Image.new("LA", (8, 8), (0, 0))
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 0, 0, 255])
    palette.info["transparency"] = 1
    assert to_rgb(half_red).getpixel((0, 0)) == (255, 127, 127)
    assert to_rgb(clear).getpixel((0, 0)) == (255, 255, 255)
    assert to_rgb(Image.open(io.BytesIO(encoded(palette)))).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    grey = Image.fromarray(np.full((8, 8), 0x8040, np.uint16))
    assert to_rgb(Image.open(io.BytesIO(encoded(grey)))).getpixel((3, 3)) == (0x80, 0x80, 0x80)


def test_the_camera_s_orientation_is_applied() -> None:
    image = Image.new("RGB", (20, 10), "white")
    image.paste((255, 0, 0), (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise: left becomes top
    turned = to_rgb(Image.open(io.BytesIO(encoded(image, exif=exif))))
    assert turned.size == (10, 20)
    assert turned.getpixel((5, 2)) == (255, 0, 0)
    assert turned.getpixel((5, 17)) == (255, 255, 255)


@pytest.mark.parametrize("content", [b"", b"no picture", encoded(picture(40, 40))[:200]])
def test_broken_pictures_are_the_users_mistake(content: bytes) -> None:
    with pytest.raises(UserError, match="the picture cannot be decoded"):
        Preprocess(16)(content)


def test_preprocess_json_round_trip_and_unknown_content(tmp_path: Path) -> None:
    file = tmp_path / "preprocess.json"
    write_json(file, Preprocess(48).to_dict())
    assert Preprocess.load(file).image_size == 48
    for other in (Preprocess(48).to_dict() | {"mean": 0.4}, {}):
        write_json(file, other)
        with pytest.raises(UserError, match=r"preprocess.json: no preprocessing that this version knows"):
            Preprocess.load(file)


def test_decode_keeps_the_pixels_of_a_picture_of_the_right_size() -> None:
    image = picture(48, 48)
    pixels = decode_uint8(encoded(image), 48)
    assert pixels.dtype == torch.uint8
    np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), np.asarray(image))


def test_large_jpegs_are_decoded_at_a_fraction_and_stay_close() -> None:
    image = picture(640, 480)
    exact = np.asarray(fit_square(image, 32)).astype(float)
    quick = decode_uint8(encoded(image, "JPEG", quality=95), 32).permute(1, 2, 0).numpy()
    assert np.abs(exact - quick).mean() < 2


def test_normalize_by_hand() -> None:
    torch.testing.assert_close(normalize(torch.tensor([0.0, 0.5, 1.0])), torch.tensor([-1.0, 0.0, 1.0]))


@pytest.mark.parametrize(
    "kind, width, height, side",
    [
        ("JPEG", 256, 300, 128),
        ("JPEG", 255, 300, 255),
        ("JPEG", 640, 520, 130),
        ("JPEG", 300, 200, 200),
        ("PNG", 256, 300, 256),
    ],
)
def test_jpegs_are_decoded_at_the_least_scale_that_is_twice_the_side(kind: str, width: int, height: int, side: int) -> None:
    image = picture(width, height)
    square = decode_square(encoded(image, kind), 64)
    assert square.shape == (3, side, side)
    short = min(width, height)
    left, top = round((width - short) / 2), round((height - short) / 2)
    exact = np.asarray(image.crop((left, top, left + short, top + short)).resize((side, side), Image.Resampling.BICUBIC))
    assert np.abs(exact.astype(float) - square.permute(1, 2, 0).numpy()).mean() < 3


@pytest.mark.parametrize("before, after", [(96, 48), (72, 48), (48, 48), (31, 48), (200, 48)])
def test_resizing_is_pillow_s_to_one_level(before: int, after: int) -> None:
    image = picture(before, before)
    ours = resized(torch.from_numpy(np.array(image)).permute(2, 0, 1), after).permute(1, 2, 0).numpy()
    theirs = np.asarray(image.resize((after, after), Image.Resampling.BICUBIC))
    assert np.abs(ours.astype(int) - theirs).max() <= 1
