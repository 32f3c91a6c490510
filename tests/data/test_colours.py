"""From 8 bits to what the tower takes: against torchvision, picture by picture, and the same whatever the threads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from limoe.data.augment import Augmentation
from limoe.data.colours import RawBatch, jitter
from limoe.model.tokens import PairBatch


def raw(images_BCHW: Tensor, factors_B3: Tensor | None) -> RawBatch:
    lengths_B = torch.ones(len(images_BCHW), dtype=torch.int64)
    return RawBatch(PairBatch(images_BCHW, lengths_B.clone(), lengths_B, ("one",) * len(lengths_B)), factors_B3)


def pixels(batch: int, side: int) -> Tensor:
    return torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def some_factors(batch: int) -> Tensor:
    return 0.5 + torch.rand(batch, 3, generator=torch.Generator().manual_seed(1))


def test_jitter_equals_torchvision_picture_by_picture() -> None:
    images = torch.rand(5, 3, 10, 10, generator=torch.Generator().manual_seed(0))
    factors = some_factors(5)
    ours = jitter(images.clone(), factors)
    for image, (brightness, contrast, saturation), mine in zip(images, factors.tolist(), ours, strict=True):
        theirs = F.adjust_saturation(F.adjust_contrast(F.adjust_brightness(image, brightness), contrast), saturation)
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("batch", [1, 16, 37])
def test_finished_is_jittered_and_between_minus_one_and_one_and_the_rest_stays(batch: int) -> None:
    images, factors = pixels(batch, 9), some_factors(batch)
    before = images.clone()
    found = raw(images, factors).finished()
    torch.testing.assert_close(found.images_BCHW, 2 * jitter(images / 255, factors) - 1, atol=1e-6, rtol=0)
    assert found.images_BCHW.dtype == torch.float32
    assert torch.equal(images, before)
    assert found.ids_N.tolist() == found.lengths_B.tolist() == [1] * batch
    assert found.keys == ("one",) * batch


def test_without_factors_a_level_of_255_is_a_127_5th() -> None:
    images = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    torch.testing.assert_close(raw(images, None).finished().images_BCHW, images / 127.5 - 1, atol=1e-6, rtol=0)


@pytest.mark.parametrize("batch, side", [(1, 191), (2, 191), (17, 64), (33, 31)])
def test_its_bits_do_not_depend_on_threads(batch: int, side: int) -> None:
    one = raw(pixels(batch, side), some_factors(batch))
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(one.finished().images_BCHW)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_factors_lie_around_one_as_far_as_the_jitter_says() -> None:
    augmentation = Augmentation(8, color_jitter=0.3)
    factors = augmentation.factors(augmentation.draw(2000, torch.Generator().manual_seed(0)))
    assert factors is not None
    assert factors.shape == (2000, 3)
    assert 0.7 <= factors.min() < 0.705
    assert 1.295 < factors.max() <= 1.3
    assert Augmentation(8).factors(torch.zeros(4, 8)) is None
