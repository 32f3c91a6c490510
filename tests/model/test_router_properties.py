"""What holds for every router and order of claims, whatever the shapes, the mix of modalities and the ties.

Decisions are compared with the slow ones made from the layer's own scores, bit by bit; the scores with a slow softmax.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import reference_routing as slow
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import softmax
from routekit import LAYER, PRIORITIES, ROUTERS, Case, asked, cases, permuted, placed, state

from limoe.model.router import NoiseKey, Router, Routing

every_router = pytest.mark.parametrize("router,priority", ROUTERS)
each_router = pytest.mark.parametrize("router", ["top-k", "loss-free", "expert-choice", "uniform"])
orders = st.sampled_from(PRIORITIES)
few = settings(max_examples=25)


def route(case: Case, router: str, priority: str, training: bool = True) -> tuple[Router, Routing, list]:
    """In float64, of all rows; also the rank of each row in shuffled order."""
    module = case.layer(router, priority, "loop", torch.float64).router.train(training)
    layout = case.layout()
    draws = case.draws(layout)
    return module, module(case.x_TD(torch.float64), layout, draws if training else None), draws.order_T.tolist()


@every_router
@pytest.mark.parametrize("training", [True, False])
@few
@given(case=cases())
def test_decisions_equal_the_slow_ones(router, priority, training, case):
    module, routing, shuffle = route(case, router, priority, training)
    groups, modality, pair = case.rows()
    sequences = [None if g is None else 2 * p + m for g, p, m in zip(groups, pair, modality, strict=True)]
    rules, layout = case.rules(router, priority, training), case.layout()
    scores_TE = routing.noisy_TE.softmax(1)
    assert layout.modality_T.tolist() == modality
    assert [g if real else None for g, real in zip(layout.group_T.tolist(), layout.real_T.tolist(), strict=True)] == groups

    choices = slow.choose(scores_TE.tolist(), groups if training else sequences, modality, rules, state(module))
    choices = [[] if group is None else row for row, group in zip(choices, groups, strict=True)]
    assert asked(routing) == choices
    if router == "expert-choice":
        assert routing.expert_TK.shape[1] == max(1, *map(len, choices))

    gates = slow.gates_of(choices, scores_TE.tolist(), rules)
    for row, made, expected in zip(routing.gate_TK.tolist(), routing.asked_TK.tolist(), gates, strict=True):
        assert [g for g, a in zip(row, made, strict=True) if a] == pytest.approx(expected, rel=1e-12)
        assert router != "expert-choice" or expected == sorted(expected, reverse=True)
    assert placed(routing) == slow.placed_of(choices, scores_TE.tolist(), groups, modality, rules, shuffle)


@each_router
@few
@given(priority=orders, case=cases(noise=1.0, ties=False))
def test_scores_are_the_softmax_of_noisy_logits(router, priority, case):
    module, routing, _ = route(case, router, priority)
    x_TD, noise_TE = case.x_TD(torch.float64), case.draws(case.layout()).noise_TE.double()
    logits_TE = x_TD.numpy() @ module.weight.detach().numpy().T
    np.testing.assert_allclose(routing.logits_TE.detach(), logits_TE, rtol=1e-12)
    np.testing.assert_allclose(routing.noisy_TE.detach(), logits_TE + noise_TE.numpy() / case.experts, rtol=1e-12)
    np.testing.assert_allclose(routing.probs_TE.detach(), [softmax(row) for row in logits_TE], rtol=1e-9)
    assert routing.sigma == pytest.approx(1 / case.experts)


@every_router
@few
@given(case=cases())
def test_no_expert_exceeds_its_capacity_and_no_place_is_given_twice(router, priority, case):
    _, routing, _ = route(case, router, priority)
    groups, modality, _ = case.rows()
    taken = {}
    for t, (experts, slots, found) in enumerate(
        zip(routing.expert_TK.tolist(), routing.slot_TK.tolist(), routing.placed_TK.tolist(), strict=True)
    ):
        for expert, slot, p in zip(experts, slots, found, strict=True):
            if p:
                assert groups[t] is not None
                taken.setdefault(expert, []).append((t, slot))
    for pairs in taken.values():
        rows, slots = [t for t, _ in pairs], [slot for _, slot in pairs]
        assert len(set(rows)) == len(rows)  # a token has an expert at most once
        assert len(set(slots)) == len(slots)
        assert min(slots) >= 0
        assert max(slots) < routing.slots
        for parts in ((slow.TEXT, slow.IMAGE),) if router == "expert-choice" else ((None,),):
            for m in parts:
                for tokens in slow.members(groups, modality, m).values():
                    room = slow.capacity(len(tokens), case.k, case.factor, case.experts)
                    assert sum(t in tokens for t in rows) <= room


@few
@given(case=cases())
def test_each_expert_takes_its_quota_of_each_modality(case):
    _, routing, _ = route(case, "expert-choice", "bpr")
    groups, modality, _ = case.rows()
    for m in (slow.TEXT, slow.IMAGE):
        for tokens in slow.members(groups, modality, m).values():
            quota = min(len(tokens), slow.capacity(len(tokens), case.k, case.factor, case.experts))
            counts = [sum(e in asked(routing)[t] for t in tokens) for e in range(case.experts)]
            assert counts == [quota] * case.experts


@pytest.mark.parametrize("router,priority", [("top-k", "bpr"), ("loss-free", "bpr"), ("expert-choice", "bpr")])
@few
@given(case=cases(ties=False), seed=st.integers(0, 1000))
def test_permuting_the_tokens_of_a_group_permutes_the_result(router, priority, case, seed):
    module = case.layer(router, priority, "loop", torch.float64).router.train()
    layout, x_TD = case.layout(), case.x_TD(torch.float64)
    draws = case.draws(layout)
    order_T = torch.arange(len(x_TD))
    for rows in slow.members(case.rows()[0]).values():
        order_T[rows] = order_T[rows][torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]
    moved = type(draws)(draws.noise_TE[order_T], draws.order_T[order_T])
    before, after = module(x_TD, layout, draws), module(x_TD[order_T], permuted(layout, order_T), moved)
    for name in ("expert_TK", "asked_TK", "placed_TK"):
        assert torch.equal(getattr(before, name)[order_T], getattr(after, name)), name
    torch.testing.assert_close(before.gate_TK[order_T], after.gate_TK)


@few
@given(case=cases(), step=st.integers(0, 5))
def test_the_randomness_of_a_group_is_its_name(case, step):
    layout = case.layout()
    draws = case.draws(layout, step)
    for group in range(layout.groups):
        rows = (layout.group_T == group) & layout.real_T
        alone = case.layout(group * case.group_pairs, (group + 1) * case.group_pairs)
        again = NoiseKey(case.seed, step, first_group=group).draw(alone, LAYER, case.experts)
        for name in ("noise_TE", "order_T"):
            mine = getattr(draws, name)[rows]
            assert torch.equal(mine, getattr(again, name)[alone.real_T])
            for key, layer in (((case.seed + 1, step), LAYER), ((case.seed, step + 1), LAYER), ((case.seed, step), LAYER + 1)):
                other = NoiseKey(*key, first_group=group).draw(alone, layer, case.experts)
                assert not torch.equal(mine, getattr(other, name)[alone.real_T])


@every_router
@few
@given(case=cases(noise=1.0, ties=False))
def test_groups_routed_in_separate_calls_are_routed_alike(router, priority, case):
    module, whole, _ = route(case, router, priority)
    layout, x_TD = case.layout(), case.x_TD(torch.float64)
    for group in range(layout.groups):
        alone = case.layout(group * case.group_pairs, (group + 1) * case.group_pairs)
        rows = (layout.group_T == group) & layout.real_T
        part_TD = torch.zeros(len(alone.real_T), x_TD.shape[1], dtype=x_TD.dtype)
        part_TD[alone.real_T] = x_TD[rows]
        part = module(part_TD, alone, case.draws(alone, first_group=group))
        for name in ("logits_TE", "noisy_TE", "probs_TE"):
            assert torch.equal(getattr(part, name)[alone.real_T], getattr(whole, name)[rows]), name
        real = alone.real_T.nonzero().flatten().tolist()
        both = [[rows_of(r)[t] for t in index] for r, index in ((part, real), (whole, rows.nonzero().flatten().tolist()))]
        assert both[0] == both[1]


def rows_of(routing: Routing) -> list[tuple]:
    """(expert, gate, placed) of what each row asks for."""
    columns = zip(
        routing.expert_TK.tolist(), routing.gate_TK.tolist(), routing.placed_TK.tolist(), routing.asked_TK.tolist(), strict=True
    )
    return [[choice[:3] for choice in zip(*row, strict=True) if choice[3]] for row in columns]


@each_router
@pytest.mark.parametrize("training", [True, False])
@few
@given(priority=orders, case=cases(noise=1.0, ties=False))
def test_padding_rows_change_nothing_and_get_nothing(router, priority, training, case):
    module = case.layer(router, priority, "loop", torch.float64).router.train(training)
    padded, x_TD = replace(case, bucket=16), case.x_TD(torch.float64)
    plain_TD = x_TD[: len(replace(case, bucket=1).rows()[0])]
    garbage_TD = torch.full((len(padded.rows()[0]) - len(plain_TD), x_TD.shape[1]), 100.0, dtype=torch.float64)
    results = []
    for rows_TD, bucket in ((plain_TD, 1), (torch.cat([plain_TD, garbage_TD]), 16)):
        layout = case.layout(bucket=bucket)
        assert len(layout.real_T) == len(rows_TD)
        results.append((module(rows_TD, layout, case.draws(layout) if training else None), layout))
    (plain, first), (wide, second) = results
    assert rows_of(plain) == rows_of(wide)[: len(plain_TD)]
    assert not wide.placed_TK[len(plain_TD) :].any()
    assert not wide.asked_TK[len(plain_TD) :].any()
    assert torch.equal(module.observe(plain, first), module.observe(wide, second))


@each_router
@few
@given(priority=orders, case=cases(ties=False))
def test_evaluation_is_noise_free_and_bounds_nothing(router, priority, case):
    _, routing, _ = route(case, router, priority, training=False)
    assert torch.equal(routing.noisy_TE, routing.logits_TE)
    assert routing.sigma == 0
    assert routing.slots is None
    assert torch.equal(routing.placed_TK, routing.asked_TK)
    if router != "expert-choice":
        real_T = case.layout().real_T
        assert routing.asked_TK[real_T].all()


@each_router
@few
@given(case=cases(ties=False))
def test_an_item_is_evaluated_the_same_without_its_batch_mates(router, case):
    module = case.layer(router, "bpr", "loop", torch.float64).eval()
    x_TD, (_, modality, pair) = case.x_TD(torch.float64), case.rows()
    whole, _ = module(x_TD, case.layout(), None)
    for item in sorted({(p, m) for p, m in zip(pair, modality, strict=True) if p >= 0}):
        rows = [t for t, each in enumerate(zip(pair, modality, strict=True)) if each == item]
        alone = replace(case, mix="images" if item[1] == slow.IMAGE else "texts", bucket=1).layout(item[0], item[0] + 1)
        torch.testing.assert_close(module(x_TD[rows], alone, None)[0], whole[rows], rtol=1e-9, atol=1e-12)
