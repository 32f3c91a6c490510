from __future__ import annotations

import math

import pytest
import reference
import torch
import torch.nn.functional as F

from limoe.losses.contrastive import softmax_contrastive


def test_by_hand():
    # Orthogonal pairs at scale s: logits s * I, each row costs ln(1 + e^-s).
    for scale in (1.0, 10.0):
        loss = softmax_contrastive(torch.eye(2), torch.eye(2), torch.tensor(scale))
        assert loss.item() == pytest.approx(math.log(1 + math.exp(-scale)), rel=1e-4, abs=1e-7)


def test_chance_is_the_log_of_the_batch():
    same = F.normalize(torch.ones(7, 3), dim=1)
    assert softmax_contrastive(same, same, torch.tensor(10.0)).item() == pytest.approx(math.log(7), rel=1e-5)


def test_equals_the_slow_one_and_is_not_symmetric_by_accident():
    generator = torch.Generator().manual_seed(0)
    image, text = (F.normalize(torch.randn(6, 5, generator=generator, dtype=torch.float64), dim=1) for _ in range(2))
    scale = torch.tensor(4.0, dtype=torch.float64)
    assert softmax_contrastive(image, text, scale).item() == pytest.approx(
        reference.contrastive(image.tolist(), text.tolist(), 4.0)
    )
    one_way = F.cross_entropy(4 * image @ text.T, torch.arange(6))
    assert abs(one_way - softmax_contrastive(image, text, scale)) > 1e-4
