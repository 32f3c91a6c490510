"""The closed forms against torch's counter (on the plain kernels) and against parameters counted by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
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


@pytest.mark.parametrize("length", [1, 5])
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"depth": 5, "width": 24, "heads": 3, "embed_dim": 40},
        {"depth": 2, "mlp_ratio": 1.5, "image_size": 16, "patch_size": 4},
        {"depth": 3, "mlp_ratio": 3, "patch_size": 16},
    ],
)
def test_a_dense_tower_equals_torchs_counter(shape, length):
    assert counted(Limoe(tower(**shape), None, VOCAB).eval(), equal_lengths(length)) == tower_flops(tower(**shape), [length])


placements = st.integers(2, 5).flatmap(
    lambda depth: st.tuples(
        st.just(depth),
        st.just("every-second")
        | st.integers(1, depth).map("last-{}".format)
        | st.sets(st.integers(0, depth - 1), min_size=1).map(tuple),
    )
)


@settings(max_examples=20)
@given(
    placement=placements,
    experts_and_k=st.integers(2, 9).flatmap(lambda experts: st.tuples(st.just(experts), st.integers(1, experts))),
    heads=st.sampled_from([1, 2, 4]),
    mlp_ratio=st.sampled_from([0.5, 2, 4]),
    length=st.integers(1, 8),
    router=st.sampled_from(["top-k", "loss-free", "uniform"]),
)
def test_a_sparse_tower_equals_torchs_counter(placement, experts_and_k, heads, mlp_ratio, length, router):
    (depth, blocks), (experts, k) = placement, experts_and_k
    shape = tower(depth=depth, heads=heads, mlp_ratio=mlp_ratio)
    sparse = moe(experts=experts, k=k, blocks=blocks, router=router)
    assert counted(Limoe(shape, sparse, VOCAB).eval(), equal_lengths(length)) == tower_flops(shape, [length], sparse)


def test_experts_add_the_same_wherever_they_stand_and_a_multiple_of_k():
    dense, width, hidden, tokens = tower_flops(tower(), [5]), 16, 64, 4 + 5
    router, mlp = 2 * width * 4 * tokens, 4 * width * hidden * tokens
    for blocks, layers in (("every-second", 2), ("last-2", 2), ((0, 1, 2, 3), 4), ((2,), 1)):
        for k in (1, 2, 3):
            assert tower_flops(tower(), [5], moe(blocks=blocks, k=k)) == dense + layers * (router + (k - 1) * mlp)


def test_blocks_that_the_tower_lacks_have_no_cost():
    with pytest.raises(ValueError, match="block 4 does not exist"):
        tower_flops(tower(), [5], moe(blocks=(4,)))


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
    assert active_parameters(model, 3) == active_parameters(model, 1) + 2 * 2 * expert
    named = Limoe(tower(), moe(experts=4, blocks=(0, 2, 3)), VOCAB)
    assert total_parameters(named) == total_parameters(dense) + 3 * (3 * expert + 4 * 16)


def test_default_clip_is_matched_within_five_percent():
    target = tower_flops(PARAMS.model.tower, [4, 8, 15, 18])
    width = matched_text_width(PARAMS.model.tower, PARAMS.model.clip, target)
    assert abs(clip_flops(PARAMS.model.tower, width, PARAMS.model.clip.text_depth) / target - 1) <= 0.05


def test_a_match_that_is_out_of_reach_is_refused():
    with pytest.raises(UserError, match=r"text_depth.*FLOPs"):
        matched_text_width(PARAMS.model.tower, PARAMS.model.clip, 1e6)
