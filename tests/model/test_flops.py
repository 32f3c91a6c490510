"""The closed forms against torch's counter (on the plain kernels) and against parameters counted by hand."""

from __future__ import annotations

import pytest
import torch
from modelkit import EOS, PARAMS, VOCAB, batch, moe, tower
from torch.utils.flop_counter import FlopCounterMode

from limoe.errors import UserError
from limoe.model.clip import Clip, matched_text_width
from limoe.model.flops import active_parameters, clip_flops, total_parameters, tower_flops
from limoe.model.limoe import Limoe
from limoe.model.tokens import PairBatch


def counted(model, pairs) -> float:
    with FlopCounterMode(display=False) as counter:
        model(pairs)
    return counter.get_total_flops() / len(pairs.lengths_B)


def equal_lengths(length: int) -> PairBatch:
    pairs = batch(pairs=6)
    return PairBatch(pairs.images_BCHW, torch.full((6 * length,), EOS), torch.full((6,), length), pairs.keys)


@pytest.mark.parametrize("kind", ["limoe", "dense"])
def test_tower_equals_torchs_counter(kind):
    sparse = moe() if kind == "limoe" else None
    model = Limoe(tower(), sparse, VOCAB).eval()
    assert counted(model, equal_lengths(5)) == tower_flops(tower(), [5], sparse)


def test_k_experts_cost_k_mlps():
    model = Limoe(tower(), moe(k=2), VOCAB).eval()
    assert counted(model, equal_lengths(3)) == tower_flops(tower(), [3], moe(k=2))


def test_clip_equals_torchs_counter():
    model = Clip(tower(), PARAMS.model.clip, 24, VOCAB, EOS)
    assert counted(model, equal_lengths(5)) == clip_flops(tower(), 24, PARAMS.model.clip.text_depth)


def test_the_mean_is_over_captions_and_not_of_their_mean_length():
    mixed = tower_flops(tower(), [2, 6])
    assert mixed == (tower_flops(tower(), [2]) + tower_flops(tower(), [6])) / 2
    assert mixed > tower_flops(tower(), [4])


def test_active_parameters_by_hand():
    model = Limoe(tower(), moe(experts=4), VOCAB)
    expert = 16 * 64 + 64 + 64 * 16 + 16  # up and down with biases
    assert total_parameters(model) - active_parameters(model, 1) == 2 * 3 * expert  # two sparse blocks, three idle experts
    dense = Limoe(tower(), None, VOCAB)
    assert active_parameters(model, 1) == total_parameters(dense) + 2 * 4 * 16  # and the two routers


def test_default_clip_is_matched_within_five_percent():
    target = tower_flops(PARAMS.model.tower, [4, 8, 15, 18])
    width = matched_text_width(PARAMS.model.tower, PARAMS.model.clip, target)
    assert abs(clip_flops(PARAMS.model.tower, width, PARAMS.model.clip.text_depth) / target - 1) <= 0.05


def test_a_match_that_is_out_of_reach_is_refused():
    with pytest.raises(UserError, match=r"text_depth.*FLOPs"):
        matched_text_width(PARAMS.model.tower, PARAMS.model.clip, 1e6)
