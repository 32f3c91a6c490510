"""What another resolution or text length would change: the closed forms of the analysis, over the settings that people use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from limoe.config import ModelParams
from limoe.data.needs import Needs, WorstCase
from limoe.data.statistics import Lengths
from limoe.losses.entropy_bias import hard_bias

PICTURES = ((224, 32), (224, 16), (224, 14), (336, 14))  # px, px: CLIP's and LIMoE's
TEXTS = (16, 32, 64, 77)  # tokens: LIMoE's 16, CLIP's 77


@dataclass(frozen=True)
class Setting:
    """image_tokens, text_tokens: of a pair, mean. truncated: share of captions cut. random_placed: share placed by uniform
    routing. worst_priority, worst_first_come: capacity factors that place the target share of text if all of it wants one
    expert. tau_*: suggested, nats. bias_*: of the entropy of a group's mean probabilities, nats, at most: see hard_bias."""

    image_size: int
    patch_size: int
    text_length: int
    in_use: bool
    image_tokens: int
    text_tokens: float
    truncated: float
    random_placed: float
    worst_priority: float
    worst_first_come: float
    tau_text: float
    tau_image: float
    bias_text: float
    bias_image: float


def settings(model: ModelParams, lengths: Lengths, target: float) -> tuple[Setting, ...]:
    """The one in use, then others that differ from it in the pictures, then in the text length."""
    shares_L = np.array(lengths.shares)
    found: list[Setting] = []
    for image_size, patch_size, text_length in _shapes(model):
        image, text = (image_size // patch_size) ** 2, float(shares_L @ np.minimum(np.arange(len(shares_L)), text_length))
        needs = Needs.of(image, text, model.moe, target)
        (worst,) = WorstCase.of(image, text, model.moe, target, (model.moe.group_pairs,)).sizes
        row = Setting(
            image_size,
            patch_size,
            text_length,
            not found,
            image,
            text,
            float(shares_L[text_length + 1 :].sum()),
            needs.random_placed,
            worst.factor_priority,
            worst.factor_first_come,
            needs.tau_text,
            needs.tau_image,
            hard_bias(model.moe.experts, needs.text_tokens),
            hard_bias(model.moe.experts, needs.image_tokens),
        )
        found.append(row)
    return tuple(found)


def _shapes(model: ModelParams) -> Iterator[tuple[int, int, int]]:
    """(image_size, patch_size, text_length): in use, at half and twice its patch, in PICTURES, in TEXTS."""
    tower = model.tower
    size, patch, length = tower.image_size, tower.patch_size, tower.text_length
    own = [(size, side) for side in (patch // 2, 2 * patch) if side and size % side == 0]
    shapes = [(size, patch, length), *((*one, length) for one in (*own, *PICTURES)), *((size, patch, one) for one in TEXTS)]
    yield from dict.fromkeys(shapes)
