"""Preprocessing against torchvision, crops against Pillow, jitter against torchvision picture by picture."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from limoe.data.rgb import to_rgb
from limoe.data.transforms import (
    Preprocess,
    augment,
    bicubic,
    crop_boxes,
    decode_uint8,
    draw,
    fit_square,
    jitter,
    normalize,
    resample,
    stored_size,
)
from limoe.errors import UserError


def picture(width: int, height: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """A smooth random picture."""
    channels = len(mode)
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, channels), dtype=np.uint8)
    bands = [Image.fromarray(coarse[..., c]).resize((width, height), Image.Resampling.BICUBIC) for c in range(channels)]
    return bands[0] if channels == 1 else Image.merge(mode, bands)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


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


def test_preprocess_json_round_trip_and_unknown_content() -> None:
    assert Preprocess.from_dict(Preprocess(48).to_dict()).image_size == 48
    with pytest.raises(UserError, match=r"preprocess.json"):
        Preprocess.from_dict(Preprocess(48).to_dict() | {"mean": 0.4})
    with pytest.raises(UserError, match=r"preprocess.json"):
        Preprocess.from_dict({})


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


def test_no_crop_and_no_jitter_is_the_picture_itself() -> None:
    images = torch.randint(0, 256, (3, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    same = augment(images, 12, draw(len(images), torch.Generator().manual_seed(1)))
    torch.testing.assert_close(same, images / 255, atol=1e-6, rtol=0)
    assert normalize(same.clone()).min() >= -1
    torch.testing.assert_close(normalize(torch.tensor([0.0, 0.5, 1.0])), torch.tensor([-1.0, 0.0, 1.0]))


def test_a_whole_picture_is_resized_as_evaluation_resizes_it() -> None:
    image = picture(62, 62)
    stored = decode_uint8(encoded(image), 62)[None]
    theirs = Preprocess(48)(image)
    ours = normalize(augment(stored, 48, draw(1, torch.Generator())))[0]
    torch.testing.assert_close(ours, theirs, atol=3 / 255, rtol=0)


@given(seed=st.integers(0, 2**20), scale=st.floats(0.1, 1.0))
@settings(max_examples=25, deadline=None)
def test_crops_equal_pillow_s_resize_of_the_same_box(seed: int, scale: float) -> None:
    images = [picture(40, 40, seed + i) for i in range(3)]
    boxes = crop_boxes(torch.rand(3, 4, generator=torch.Generator().manual_seed(seed)), scale)
    stacked = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images])
    ours = resample(stacked / 255, boxes, 24)
    for image, (left, top, width, height), mine in zip(images, (boxes.double() * 40).tolist(), ours, strict=True):
        box = (max(left, 0.0), max(top, 0.0), min(left + width, 40.0), min(top + height, 40.0))
        theirs = np.asarray(image.resize((24, 24), Image.Resampling.BICUBIC, box=box)) / 255
        np.testing.assert_allclose(mine.permute(1, 2, 0).numpy(), theirs, atol=2.5 / 255)  # Pillow rounds twice, to 8 bits


def test_bicubic_kernel_by_hand() -> None:
    values = bicubic(torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 7.0], dtype=torch.float64))
    torch.testing.assert_close(values, torch.tensor([1.0, 0.5625, 0.0, -0.0625, 0.0, 0.0], dtype=torch.float64))


@given(seed=st.integers(0, 2**20), scale=st.floats(0.05, 1.0))
@settings(max_examples=50, deadline=None)
def test_crop_boxes_lie_inside_with_the_area_and_aspect_asked_for(seed: int, scale: float) -> None:
    boxes = crop_boxes(torch.rand(64, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), scale)
    left, top, width, height = boxes.unbind(1)
    assert bool((left >= 0).all() and (top >= 0).all() and (left + width <= 1 + 1e-9).all() and (top + height <= 1 + 1e-9).all())
    area, aspect = width * height, width / height
    assert bool((area >= scale - 1e-9).all() and (area <= 1 + 1e-9).all())
    assert bool((aspect >= 0.75 - 1e-9).all() and (aspect <= 4 / 3 + 1e-9).all())


def test_jitter_equals_torchvision_picture_by_picture() -> None:
    from torchvision.transforms.v2 import functional as F

    generator = torch.Generator().manual_seed(0)
    images = torch.rand(5, 3, 10, 10, generator=generator)
    factors = 0.5 + torch.rand(5, 3, generator=generator)
    ours = jitter(images.clone(), factors)
    for image, (brightness, contrast, saturation), mine in zip(images, factors.tolist(), ours, strict=True):
        theirs = F.adjust_saturation(F.adjust_contrast(F.adjust_brightness(image, brightness), contrast), saturation)
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=0)


def test_augment_is_a_function_of_the_generator_and_changes_every_picture() -> None:
    image = torch.from_numpy(np.array(picture(40, 40))).permute(2, 0, 1)
    images = image.repeat(40, 1, 1, 1)
    draws = [draw(len(images), torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    first, second, other = (augment(images, 32, draws_B7, 0.6, 0.3) for draws_B7 in draws)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert len({one.numpy().tobytes() for one in first}) == 40
    assert first.shape == (40, 3, 32, 32)
    assert 0 <= first.min() <= first.max() <= 1


def test_stored_size_spares_the_smallest_crop_from_enlargement() -> None:
    assert stored_size(48, 1.0) == 48
    assert stored_size(48, 0.25) == 96
    assert stored_size(48, 0.6) == 62  # 48 / sqrt(0.6) = 61.97
    assert stored_size(48, 0.01) == 96


@given(seed=st.integers(0, 2**20), scale=st.floats(0.25, 1.0))
@settings(max_examples=25, deadline=None)
def test_no_crop_is_enlarged_by_more_than_its_aspect(seed: int, scale: float) -> None:
    boxes = crop_boxes(torch.rand(64, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), scale)
    shorter = float(boxes[:, 2:].min()) * stored_size(48, scale)
    assert 48 / shorter <= (4 / 3) ** 0.5 + 1e-6  # 1.155; a square crop by nothing
