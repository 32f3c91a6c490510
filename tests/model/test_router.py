"""The router against slow loops and hand-made cases: order, capacity, groups, noise, padding."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reference_routing as slow
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from modelkit import moe
from reference import softmax

from limoe.model.router import NoiseKey, Router, capacities, claim_order, place
from limoe.model.tokens import Layout


def one_group(rows: int) -> Layout:
    return Layout.of(rows, 1, None, torch.device("cpu"))


def test_bpr_serves_the_largest_gate_first():
    # One expert with 2 places, gates 0.6, 0.9, 0.7: tokens 1 and 2 get them. First come: tokens 0 and 1.
    expert_TK, gate_TK = torch.zeros(3, 1, dtype=torch.long), torch.tensor([[0.6], [0.9], [0.7]])
    layout, two = one_group(3), torch.tensor([2])
    for priority, expected in (("bpr", [False, True, True]), ("first-come", [True, True, False])):
        order = claim_order(gate_TK, priority)
        assert place(expert_TK, order, layout.group_T, layout.real_T, two, 2).flatten().tolist() == expected


def test_every_first_choice_goes_before_any_second():
    # Token 0 (gate 0.9) wants experts 0 then 1; token 1 (gate 0.5) wants 1 then 0. One place each: the first choices take both.
    expert_TK, gate_TK = torch.tensor([[0, 1], [1, 0]]), torch.tensor([[0.9, 0.1], [0.5, 0.4]])
    layout = one_group(2)
    placed = place(expert_TK, claim_order(gate_TK, "bpr"), layout.group_T, layout.real_T, torch.tensor([1]), 2)
    assert placed.tolist() == [[True, False], [True, False]]


def test_capacity_is_the_ceiling_of_the_fair_share():
    # 100 tokens, K 1, cf 1.05, 16 experts: 6.5625 -> 7. 32 tokens, K 2, cf 1, 8 experts: exactly 8.
    assert capacities(torch.tensor([100]), 1, 1.05, 16).tolist() == [7]
    assert capacities(torch.tensor([32]), 2, 1.0, 8).tolist() == [8]


@settings(max_examples=60, deadline=None)
@given(
    experts=st.integers(2, 6),
    rows=st.integers(1, 30),
    k=st.integers(1, 2),
    groups=st.integers(1, 3),
    factor=st.sampled_from([0.3, 1.0, 1.05, 4.0]),
    priority=st.sampled_from(["bpr", "first-come"]),
    ties=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_placement_equals_the_slow_one(experts, rows, k, groups, factor, priority, ties, seed):
    rng = np.random.default_rng(seed)
    logits = rng.integers(0, 3, (rows, experts)).astype(float) if ties else rng.normal(size=(rows, experts))
    probs = [softmax(row) for row in logits]
    choices = [slow.top_k(row, k) for row in probs]
    gates = [max(row) for row in probs]
    group = sorted(rng.integers(0, groups, rows).tolist())
    expected = slow.place(choices, gates, group, k, factor, experts, priority)

    group_T, gate_TK = torch.tensor(group), torch.tensor(gates, dtype=torch.float64)[:, None]
    capacity_G = capacities(torch.bincount(group_T, minlength=groups), k, factor, experts)
    real_T = torch.ones(rows, dtype=torch.bool)
    placed = place(torch.tensor(choices), claim_order(gate_TK, priority), group_T, real_T, capacity_G, experts)
    assert placed.tolist() == expected
    for g in range(groups):
        for e in range(experts):
            taken = (torch.tensor(choices) == e) & placed & (group_T == g)[:, None]
            assert taken.sum() <= capacity_G[g]


def test_permuting_tokens_permutes_bpr():
    generator = torch.Generator().manual_seed(0)
    gate_TK = torch.rand(40, 2, generator=generator).sort(1, descending=True).values
    expert_TK = torch.stack([torch.randperm(4, generator=generator)[:2] for _ in range(40)])
    layout, room = one_group(40), torch.tensor([12])
    shuffle = torch.randperm(40, generator=generator)

    def run(experts, gates):
        return place(experts, claim_order(gates, "bpr"), layout.group_T, layout.real_T, room, 4)

    assert torch.equal(run(expert_TK, gate_TK)[shuffle], run(expert_TK[shuffle], gate_TK[shuffle]))


def router(**changes) -> Router:
    torch.manual_seed(0)
    return Router(8, moe(**changes), layer=1)


def test_padding_rows_claim_nothing_and_change_nothing():
    lengths = torch.tensor([3, 2, 4, 1])
    plain = Layout.of(4, 2, lengths, torch.device("cpu"), group_pairs=2)
    padded = Layout.of(4, 2, lengths, torch.device("cpu"), group_pairs=2, bucket=32)
    assert padded.padding == 32 - 18
    x = torch.randn(18, 8, generator=torch.Generator().manual_seed(1))
    garbage = torch.full((14, 8), 100.0)
    module = router().train()
    a = module(x, plain, NoiseKey(0, 3))
    b = module(torch.cat([x, garbage]), padded, NoiseKey(0, 3))
    for name in ("logits_TE", "noisy_TE", "expert_TK", "gate_TK", "placed_TK"):
        assert torch.equal(getattr(a, name), getattr(b, name)[:18]), name
    assert not b.placed_TK[18:].any()


def test_noise_has_the_papers_size_and_is_keyed():
    layout = one_group(4000)
    module = router().train()
    x = torch.randn(4000, 8, generator=torch.Generator().manual_seed(1))
    first = module(x, layout, NoiseKey(0, 3))
    noise = first.noisy_TE - first.logits_TE
    assert noise.std().item() == pytest.approx(1 / 4, rel=0.03)  # sigma = 1/E, E = 4
    assert abs(noise.mean().item()) < 0.01
    assert torch.equal(first.noisy_TE, module(x, layout, NoiseKey(0, 3)).noisy_TE)
    assert not torch.equal(first.noisy_TE, module(x, layout, NoiseKey(0, 4)).noisy_TE)
    assert torch.equal(first.probs_TE, first.logits_TE.softmax(1))  # importance uses the clean softmax
    assert torch.equal(first.gate_TK[:, 0], first.noisy_TE.softmax(1).amax(1))  # gates the noisy one, not renormalised


def test_noise_of_a_group_does_not_depend_on_what_else_is_in_the_batch():
    lengths = torch.tensor([3, 2, 4, 1])
    whole = Layout.of(4, 2, lengths, torch.device("cpu"), group_pairs=2)
    first = Layout.of(2, 2, lengths[:2], torch.device("cpu"), group_pairs=2)
    module = router().train()
    x = torch.zeros(18, 8)
    all_noise = module(x, whole, NoiseKey(5, 0)).noisy_TE
    assert torch.equal(all_noise[whole.group_T == 0], module(x[:9], first, NoiseKey(5, 0)).noisy_TE)
    assert not torch.equal(all_noise[whole.group_T == 1][:9], all_noise[whole.group_T == 0][:9])


def test_training_without_a_noise_key_is_refused():
    with pytest.raises(ValueError, match="NoiseKey"):
        router().train()(torch.zeros(4, 8), one_group(4), None)


def test_evaluation_is_noise_free_and_drops_nothing():
    module = router(capacity_factor=0.1).eval()
    routing = module(torch.ones(50, 8), one_group(50), None)  # all tokens equal: all want the same expert
    assert routing.placed_TK.all()
    assert routing.noisy_TE is routing.logits_TE
    training = module.train()(torch.ones(50, 8), one_group(50), NoiseKey(0, 0))
    assert training.placed_TK.sum() < 50


def test_image_tokens_come_first_without_bpr():
    # All tokens want one expert; 4 pairs of 2 patches and 1 word, capacity 3: without BPR the images take every place.
    layout = Layout.of(4, 2, torch.ones(4, dtype=torch.long), torch.device("cpu"), group_pairs=4)
    module = router(priority="first-come", noise=0, aux_weights={"load": 0}).train()
    routing = module(torch.ones(12, 8), layout, None)
    assert routing.placed_TK.sum() == math.ceil(12 * 1.05 / 4) == 4
    assert not routing.placed_TK[8:].any()
