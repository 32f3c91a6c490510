"""Routers by hand-made cases: who is chosen, who gets a place, noise, padding, evaluation."""

from __future__ import annotations

import math

import pytest
import torch
from modelkit import moe
from routekit import asked
from torch import Tensor

from limoe.model.router import Draws, NoiseKey, Router, Routing, make_router
from limoe.model.router.places import capacities
from limoe.model.tokens import Layout

CPU = torch.device("cpu")


def one_group(rows: int) -> Layout:
    """Of images of one patch."""
    return Layout.of(rows, 1, None, CPU)


def router(experts: int = 4, layer: int = 1, **changes) -> Router:
    torch.manual_seed(0)
    return make_router(8, moe(**({"experts": experts, "aux_weights": {"load": 0.0}} | changes)), layer)


def by_probability(probs_TE: list[list[float]], layout: Layout, training: bool = True, **changes) -> Routing:
    """What a router without noise decides on rows whose softmax is `probs_TE`."""
    module = router(experts=len(probs_TE[0]), noise=0.0, **changes).double().train(training)
    with torch.no_grad():
        module.weight.copy_(torch.eye(len(probs_TE[0]), 8))
    x_TD = torch.zeros(len(probs_TE), 8, dtype=torch.float64)
    x_TD[:, : len(probs_TE[0])] = torch.tensor(probs_TE, dtype=torch.float64).log()
    return module(x_TD, layout, NoiseKey(0, 0).draw(layout, 1, len(probs_TE[0])) if training else None)


def places(routing: Routing) -> list[list[bool]]:
    return routing.placed_TK.tolist()


def test_bpr_serves_the_largest_gate_first():
    # Three tokens want expert 0, which has ceil(3 * 4/3 / 2) = 2 places; gates 0.6, 0.9, 0.7: tokens 1 and 2 get them.
    probs_TE = [[0.6, 0.4], [0.9, 0.1], [0.7, 0.3]]
    assert places(by_probability(probs_TE, one_group(3), capacity_factor=4 / 3, priority="bpr")) == [[False], [True], [True]]
    first_come = by_probability(probs_TE, one_group(3), capacity_factor=4 / 3, priority="first-come")
    assert places(first_come) == [[True], [True], [False]]


def test_equal_gates_are_served_in_the_arrays_order():
    assert places(by_probability([[0.6, 0.4]] * 3, one_group(3), capacity_factor=4 / 3)) == [[True], [True], [False]]


def test_every_first_choice_goes_before_any_second():
    # Three tokens of falling gates want experts 0 then 1, 1 then 0, 2 then 0. One place each: the first choices take them all.
    probs_TE = [[0.5, 0.3, 0.2], [0.35, 0.4, 0.25], [0.32, 0.3, 0.38]]
    routing = by_probability(probs_TE, one_group(3), k=2, capacity_factor=0.5)
    assert routing.expert_TK.tolist() == [[0, 1], [1, 0], [2, 0]]
    assert places(routing) == [[True, False]] * 3


@pytest.mark.parametrize("priority,winner", [("first-come", 0), ("image-first", 0), ("text-first", 2), ("bpr", 1)])
def test_the_order_of_modalities(priority, winner):
    # Two pictures and two words want expert 0, which has one place.
    layout = Layout.of(2, 1, torch.tensor([1, 1]), CPU)
    probs_TE = [[0.6, 0.4], [0.9, 0.1], [0.7, 0.3], [0.8, 0.2]]
    routing = by_probability(probs_TE, layout, capacity_factor=0.5, priority=priority)
    assert places(routing) == [[row == winner] for row in range(4)]


def test_shuffled_orders_are_fair():
    # Eight equal tokens, one place, 400 steps: each wins about 50 times (standard deviation 6.6).
    module, layout = router(experts=2, noise=0.0, capacity_factor=0.25, priority="shuffled").train(), one_group(8)
    x_TD = torch.ones(8, 8)
    wins_T = sum(module(x_TD, layout, NoiseKey(0, step).draw(layout, 1, 2)).placed_TK[:, 0].int() for step in range(400))
    assert wins_T.sum() == 400
    assert wins_T.min() > 25
    assert wins_T.max() < 75


def test_capacity_is_the_ceiling_of_the_fair_share():
    # 100 tokens, K 1, cf 1.05, 16 experts: 6.5625 -> 7. 32 tokens, K 2, cf 1, 8 experts: exactly 8.
    assert capacities(torch.tensor([100]), 1, 1.05, 16).tolist() == [7]
    assert capacities(torch.tensor([32]), 2, 1.0, 8).tolist() == [8]


def test_loss_free_chooses_with_the_bias_and_weighs_without():
    module = router(experts=3, router="loss-free", noise=0.0).double().eval()
    with torch.no_grad():
        module.weight.copy_(torch.eye(3, 8))
        module.bias_ME.copy_(torch.tensor([[0.0, 0.0, 0.3], [0.0, 0.15, 0.0]]))  # text, image
    x_TD = torch.zeros(2, 8, dtype=torch.float64)
    x_TD[:, :3] = torch.tensor([0.5, 0.4, 0.1]).double().log()
    routing = module(x_TD, Layout.of(1, 1, torch.tensor([1]), CPU), None)
    assert routing.expert_TK.tolist() == [[1], [0]]  # 0.4 + 0.15 beats 0.5, 0.1 + 0.3 does not
    assert routing.gate_TK.flatten().tolist() == pytest.approx([0.4, 0.5])


def test_experts_choose_within_their_quota_of_each_modality():
    # K 1, cf 1, 2 experts: each takes one of the two pictures and one of the two words, though both words score below pictures.
    layout = Layout.of(2, 1, torch.tensor([1, 1]), CPU)
    probs_TE = [[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.7, 0.3]]
    routing = by_probability(probs_TE, layout, router="expert-choice", capacity_factor=1.0)
    assert asked(routing) == [[0], [1], [1], [0]]
    assert routing.placed_TK.all()


def test_a_token_that_two_experts_choose_has_its_better_gate_first():
    routing = by_probability([[0.2, 0.5, 0.3], [0.8, 0.1, 0.1]], one_group(2), router="expert-choice", capacity_factor=1.5)
    assert asked(routing) == [[1, 2], [0]]
    assert places(routing) == [[True, True], [True, False]]
    assert routing.gate_TK[0].tolist() == pytest.approx([0.5, 0.3])


def test_thresholds_decide_at_evaluation():
    layout = Layout.of(2, 1, torch.tensor([1]), CPU)
    routing = by_probability([[0.5, 0.5], [0.7, 0.3], [0.45, 0.55]], layout, training=False, router="expert-choice")
    assert asked(routing) == [[0, 1], [0], [1]]  # thresholds start at 1 / E, and to reach one is enough


def test_uniform_deals_tokens_out_one_after_the_other():
    layout = Layout.of(2, 2, torch.tensor([1, 2]), CPU, group_pairs=1, text_shape=(8, 1))
    module = router(experts=5, router="uniform", k=2, noise=0.0).train()
    routing = module(torch.zeros(12, 8), layout, NoiseKey(0, 0).draw(layout, 1, 5))
    # Group 0: rows 0, 1 and 4. Group 1: rows 2, 3, 5 and 6.
    expected = [[0, 1], [2, 3], [0, 1], [2, 3], [4, 0], [4, 0], [1, 2]]
    assert routing.expert_TK[:7].tolist() == expected
    assert routing.gate_TK.flatten().tolist() == pytest.approx([0.2] * 24)
    # In evaluation each picture and each caption is dealt out by itself.
    alone = module.eval()(torch.zeros(12, 8), layout, None)
    assert alone.expert_TK[:7].tolist() == [[0, 1], [2, 3], [0, 1], [2, 3], [0, 1], [0, 1], [2, 3]]


@pytest.mark.parametrize("renormalise,gates", [(True, [5 / 8, 3 / 8]), (False, [0.5, 0.3])])
def test_renormalised_gates_sum_to_one(renormalise, gates):
    routing = by_probability([[0.5, 0.3, 0.2]], one_group(1), k=2, renormalise=renormalise)
    assert routing.gate_TK[0].tolist() == pytest.approx(gates)


def test_a_token_that_no_expert_takes_has_no_gate_to_renormalise():
    # One place of two for each expert, and both take token 0: its gates 0.7 and 0.25 of 0.95; token 1 has none, and no NaN.
    probs_TE = [[0.7, 0.25, 0.05], [0.1, 0.1, 0.8]]
    routing = by_probability(probs_TE, one_group(2), router="expert-choice", capacity_factor=1.0, renormalise=True)
    assert routing.gate_TK[0].tolist() == pytest.approx([0.7 / 0.95, 0.25 / 0.95])
    alone = by_probability([[0.5, 0.5]] * 3, one_group(3), router="expert-choice", capacity_factor=0.1, renormalise=True)
    assert places(alone) == [[True, True], [False, False], [False, False]]
    assert alone.gate_TK[1:].tolist() == [[0, 0], [0, 0]]


def noisy(module: Router, x_TD: Tensor, layout: Layout, key: NoiseKey) -> Routing:
    return module(x_TD, layout, key.draw(layout, module.layer, module.moe.experts))


def test_padding_rows_claim_nothing_and_change_nothing():
    lengths = torch.tensor([3, 2, 4, 1])
    plain = Layout.of(4, 2, lengths, CPU, group_pairs=2)
    padded = Layout.of(4, 2, lengths, CPU, group_pairs=2, text_shape=(24, 1))
    x = torch.randn(18, 8, generator=torch.Generator().manual_seed(1))
    module = router(noise=1.0).train()
    a = noisy(module, x, plain, NoiseKey(0, 3))
    b = noisy(module, torch.cat([x, torch.full((14, 8), 100.0)]), padded, NoiseKey(0, 3))
    for name in ("logits_TE", "noisy_TE", "expert_TK", "gate_TK", "placed_TK", "asked_TK"):
        assert torch.equal(getattr(a, name), getattr(b, name)[:18]), name
    assert not b.placed_TK[18:].any()
    assert not b.asked_TK[18:].any()


def test_noise_has_the_papers_size_and_is_keyed():
    layout = one_group(4000)
    module = router(noise=1.0).train()
    x = torch.randn(4000, 8, generator=torch.Generator().manual_seed(1))
    first = noisy(module, x, layout, NoiseKey(0, 3))
    noise = first.noisy_TE - first.logits_TE
    assert noise.std().item() == pytest.approx(1 / 4, rel=0.03)  # sigma = 1/E, E = 4
    assert abs(noise.mean().item()) < 0.01
    assert torch.equal(first.noisy_TE, noisy(module, x, layout, NoiseKey(0, 3)).noisy_TE)
    assert not torch.equal(first.noisy_TE, noisy(module, x, layout, NoiseKey(0, 4)).noisy_TE)
    assert torch.equal(first.probs_TE, first.logits_TE.softmax(1))  # importance uses the clean softmax
    assert torch.equal(first.gate_TK[:, 0], first.noisy_TE.softmax(1).amax(1))  # gates the noisy one, not renormalised


def test_noise_of_a_group_does_not_depend_on_what_else_is_in_the_batch():
    lengths = torch.tensor([3, 2, 4, 1])
    whole = Layout.of(4, 2, lengths, CPU, group_pairs=2)
    second = Layout.of(2, 2, lengths[2:], CPU, group_pairs=2)
    all_TE = NoiseKey(5, 0).draw(whole, 1, 4).noise_TE
    assert torch.equal(all_TE[whole.group_T == 1], NoiseKey(5, 0, first_group=1).draw(second, 1, 4).noise_TE)
    assert not torch.equal(all_TE[whole.group_T == 1], NoiseKey(5, 0).draw(second, 1, 4).noise_TE)


@pytest.mark.parametrize("name", ["top-k", "loss-free", "expert-choice", "uniform"])
def test_training_without_randomness_is_refused(name):
    with pytest.raises(ValueError, match="Draws"):
        router(router=name).train()(torch.zeros(4, 8), one_group(4), None)


@pytest.mark.parametrize("name", ["top-k", "loss-free", "uniform"])
def test_evaluation_is_noise_free_and_drops_nothing(name):
    module, layout = router(router=name, capacity_factor=0.1, noise=1.0).eval(), one_group(50)
    loud = Draws(torch.full((50, 4), 1e6), torch.rand(50))
    routing = module(torch.ones(50, 8), layout, loud)  # all tokens equal: top-K and loss-free want the same expert
    assert routing.placed_TK.all()
    assert routing.slots is None
    assert torch.equal(routing.noisy_TE, routing.logits_TE)
    assert noisy(module.train(), torch.ones(50, 8), layout, NoiseKey(0, 0)).placed_TK.sum() < 50


def test_image_tokens_come_first_without_bpr():
    # All tokens want one expert; 4 pairs of 2 patches and 1 word, capacity 4: without BPR the images take every place.
    layout = Layout.of(4, 2, torch.ones(4, dtype=torch.long), CPU, group_pairs=4)
    routing = noisy(router(priority="first-come", noise=0.0).train(), torch.ones(12, 8), layout, NoiseKey(0, 0))
    assert routing.placed_TK.sum() == math.ceil(12 * 1.05 / 4) == 4
    assert not routing.placed_TK[8:].any()
