"""RandAugment (Cubuk and others, 2019): operations drawn from a list, all of one magnitude, by torchvision's functions.

torchvision's own class draws from torch's global generator, which the loader's threads would take from each other; here the draws
come from outside. Operations and their strengths are that class's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor
from torchvision.transforms.v2 import functional as F

STRONGEST = 30  # magnitude
Operation = Callable[[Tensor, float], Tensor]  # strength: 0 to 1; below 0, if the operation has a direction, in the other one


def rand_augment(image_CHW: Tensor, draws: Sequence[tuple[float, float]], magnitude: int) -> Tensor:
    """A uint8 picture changed once for each pair of draws, uniform on [0, 1): which operation, and in which direction.

    magnitude: 0 to STRONGEST.
    """
    for choice, direction in draws:
        operation, signed = OPERATIONS[int(choice * len(OPERATIONS))]
        strength = magnitude / STRONGEST
        image_CHW = operation(image_CHW, -strength if signed and direction < 0.5 else strength)
    return image_CHW


def _affine(image: Tensor, right: float = 0.0, down: float = 0.0, shear_x: float = 0.0, shear_y: float = 0.0) -> Tensor:
    """Moved by whole px and sheared by slopes about the corner; what comes in from outside is black."""
    degrees = [math.degrees(math.atan(slope)) for slope in (shear_x, shear_y)]
    center = [0.0, 0.0] if shear_x or shear_y else None
    moved: Tensor = F.affine(image, angle=0.0, translate=[int(right), int(down)], scale=1.0, shear=degrees, center=center)
    return moved


OPERATIONS: tuple[tuple[Operation, bool], ...] = (  # and whether it has a direction
    (lambda image, _: image, False),
    (lambda image, strength: _affine(image, shear_x=0.3 * strength), True),
    (lambda image, strength: _affine(image, shear_y=0.3 * strength), True),
    (lambda image, strength: _affine(image, right=150 / 331 * image.shape[2] * strength), True),
    (lambda image, strength: _affine(image, down=150 / 331 * image.shape[1] * strength), True),
    (lambda image, strength: F.rotate(image, 30 * strength), True),
    (lambda image, strength: F.adjust_brightness(image, 1 + 0.9 * strength), True),
    (lambda image, strength: F.adjust_saturation(image, 1 + 0.9 * strength), True),
    (lambda image, strength: F.adjust_contrast(image, 1 + 0.9 * strength), True),
    (lambda image, strength: F.adjust_sharpness(image, 1 + 0.9 * strength), True),
    (lambda image, strength: F.posterize(image, 8 - round(4 * strength)), False),
    (lambda image, strength: F.solarize(image, 255 * (1 - strength)), False),
    (lambda image, _: F.autocontrast(image), False),
    (lambda image, _: F.equalize(image), False),
)
