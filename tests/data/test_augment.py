"""Crops and RandAugment against torchvision, picture by picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from picturekit import picture
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from limoe.data.augment import Augmentation, crop_boxes, pixel_box
from limoe.data.randaugment import rand_augment
from limoe.data.transforms import Preprocess


def pixels(side: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.array(picture(side, side, seed))).permute(2, 0, 1)


def made(augmentation: Augmentation, pictures: list[Tensor], croppable: list[bool], draws: Tensor) -> Tensor:
    images = torch.empty(len(pictures), 3, augmentation.size, augmentation.size, dtype=torch.uint8)
    augmentation(iter(pictures), croppable, draws, images.unbind())
    return images


def run(augmentation: Augmentation, pictures: list[Tensor], croppable: list[bool], seed: int = 1) -> Tensor:
    return made(augmentation, pictures, croppable, augmentation.draw(len(pictures), torch.Generator().manual_seed(seed)))


def test_no_crop_and_no_jitter_is_the_picture_itself() -> None:
    images = torch.randint(0, 256, (20, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    same = run(Augmentation(12, crop_scale=0.3), list(images), [False] * 20)
    assert torch.equal(same, images)


def test_a_whole_picture_is_resized_as_evaluation_resizes_it() -> None:
    theirs = Preprocess(48)(picture(62, 62))
    ours = run(Augmentation(48), [pixels(62)], [True])[0]
    torch.testing.assert_close(ours / 127.5 - 1, theirs, atol=2.01 / 255, rtol=0)  # a level of 255 is 2 / 255 of -1..1


@pytest.mark.parametrize("side", [40, 24, 17])
def test_crops_equal_torchvision_s_resized_crop(side: int) -> None:
    augmentation = Augmentation(24, crop_scale=0.3)
    draws = augmentation.draw(20, torch.Generator().manual_seed(3))
    ours = made(augmentation, [pixels(side, i) for i in range(20)], [True] * 20, draws)
    boxes = [pixel_box(box, side) for box in crop_boxes(draws[:, :4], torch.tensor(0.3)).tolist()]
    assert len(set(boxes)) > 15
    for i, (left, top, width, height) in enumerate(boxes):
        theirs = F.resized_crop(pixels(side, i), top, left, height, width, [24, 24], v2.InterpolationMode.BICUBIC, antialias=True)
        assert torch.equal(ours[i], theirs)


def test_pictures_of_different_sides_share_a_batch_and_none_sees_its_neighbours() -> None:
    sides = [40, 24, 31] * 24  # more than are decoded at one go
    augmentation = Augmentation(24, 0.3, 0.0, 0.5, 2, 9)
    draws = augmentation.draw(len(sides), torch.Generator().manual_seed(3))
    croppable = [True, False] * 36
    together = made(augmentation, [pixels(side, i) for i, side in enumerate(sides)], croppable, draws)
    for i, side in enumerate(sides):
        assert torch.equal(made(augmentation, [pixels(side, i)], croppable[i : i + 1], draws[i : i + 1])[0], together[i])


def test_so_many_are_mirrored_labelled_or_not_and_the_others_are_themselves() -> None:
    image = pixels(12)
    found = run(Augmentation(12, flip=0.25), [image] * 400, [True, False] * 200)
    mirrored = image.flip(2)
    which = [torch.equal(one, mirrored) for one in found]
    assert all(torch.equal(one, mirrored if flipped else image) for one, flipped in zip(found, which, strict=True))
    assert 57 < sum(which) < 143  # 100, five standard deviations
    assert 25 < sum(which[::2]) < 80


def test_rand_augment_is_for_the_croppable_and_comes_after_the_crop() -> None:
    augmentation = Augmentation(24, crop_scale=0.3, operations=2, magnitude=20)
    plain = Augmentation(24, crop_scale=0.3)
    pictures, croppable = [pixels(40, i) for i in range(30)], [True, False] * 15
    draws = augmentation.draw(30, torch.Generator().manual_seed(0))
    changed, crops = made(augmentation, pictures, croppable, draws), made(plain, pictures, croppable, draws[:, :8])
    assert torch.equal(changed[1::2], crops[1::2])
    for one, cropped, chance in zip(changed[::2], crops[::2], draws[::2, 8:].tolist(), strict=True):
        assert torch.equal(one, rand_augment(cropped, [tuple(chance[:2]), tuple(chance[2:])], 20))
    assert not torch.equal(changed[::2], crops[::2])


NAMES = ["Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness"]
NAMES += ["Posterize", "Solarize", "AutoContrast", "Equalize"]


@pytest.mark.parametrize("magnitude", [0, 9, 30])
@pytest.mark.parametrize("name", NAMES)
def test_operations_are_torchvision_s(name: str, magnitude: int) -> None:
    theirs = v2.RandAugment(magnitude=magnitude)
    strengths, signed = theirs._AUGMENTATION_SPACE[name]
    strength = float(strengths(31, 40, 40)[magnitude]) if strengths(31, 40, 40) is not None else 0.0
    image, choice = pixels(40, 3), (NAMES.index(name) + 0.5) / 14
    for direction, sign in ((0.1, -1), (0.9, 1)):
        theirs_now = theirs._apply_image_or_video_transform(
            image, name, sign * strength if signed else strength, interpolation=theirs.interpolation, fill=theirs._fill
        )
        ours = rand_augment(image, [(choice, direction)], magnitude)
        assert (ours.int() - theirs_now.int()).abs().max() <= 1  # their strengths are rounded to float32
        assert not signed or magnitude == 0 or not torch.equal(theirs_now, image)


def test_operations_follow_each_other_and_all_are_drawn() -> None:
    assert set(NAMES) == set(v2.RandAugment._AUGMENTATION_SPACE)
    image = pixels(40)
    once = rand_augment(image, [(8.5 / 14, 0.9)], 9)
    assert torch.equal(rand_augment(image, [(8.5 / 14, 0.9), (1.5 / 14, 0.1)], 9), rand_augment(once, [(1.5 / 14, 0.1)], 9))
    assert torch.equal(rand_augment(image, [], 9), image)


@given(seed=st.integers(0, 2**20), scale=st.floats(0.05, 1.0))
@settings(max_examples=50, deadline=None)
def test_crop_boxes_lie_inside_with_the_area_and_aspect_asked_for(seed: int, scale: float) -> None:
    boxes = crop_boxes(
        torch.rand(64, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), torch.tensor(scale).double()
    )
    left, top, width, height = boxes.unbind(1)
    assert bool((left >= 0).all() and (top >= 0).all() and (left + width <= 1 + 1e-9).all() and (top + height <= 1 + 1e-9).all())
    area, aspect = width * height, width / height
    assert bool((area >= scale - 1e-9).all() and (area <= 1 + 1e-9).all())
    assert bool((aspect >= 0.75 - 1e-9).all() and (aspect <= 4 / 3 + 1e-9).all())


@given(seed=st.integers(0, 2**20), scale=st.floats(0.05, 1.0), sides=st.lists(st.integers(1, 200), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_boxes_in_pixels_lie_inside_and_are_the_shares_to_a_pixel(seed: int, scale: float, sides: list[int]) -> None:
    shares = crop_boxes(torch.rand(len(sides), 4, generator=torch.Generator().manual_seed(seed)), torch.tensor(scale))
    for share, side in zip(shares.tolist(), sides, strict=True):
        left, top, width, height = pixel_box(share, side)
        assert 0 <= left < left + width <= side
        assert 0 <= top < top + height <= side
        np.testing.assert_allclose((left, top, width, height), np.array(share) * side, atol=1.01)


def test_boxes_that_round_over_the_edge_are_moved_back() -> None:
    assert pixel_box((0.5, 0.5, 0.5, 0.5), 3) == (1, 1, 2, 2)  # 1.5 px round to 2
    assert pixel_box((0.99, 0.0, 0.01, 1.0), 3) == (2, 0, 1, 3)


def test_augment_is_a_function_of_the_generator_and_changes_every_picture() -> None:
    images = [pixels(200)] * 40  # so large that no two of them are cropped to the same pixels
    augmentation = Augmentation(32, 0.6)
    first, second, other = (run(augmentation, images, [True] * 40, seed) for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert len({one.numpy().tobytes() for one in first}) == 40
    assert first.shape == (40, 3, 32, 32)
