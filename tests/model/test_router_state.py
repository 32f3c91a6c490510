"""What two routers remember: loss-free's bias and expert choice's thresholds, observed in parts and moved once a step."""

from __future__ import annotations

import pytest
import reference_routing as slow
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from modelkit import moe
from routekit import Case, asked, cases

from limoe.model.encoder import MoeMlp
from limoe.model.router import NoiseKey, Router, make_router
from limoe.model.tokens import Layout

CPU = torch.device("cpu")
few = settings(max_examples=25)


def step(case: Case, router: Router, number: int = 0):
    """(routing, layout) of all rows in training."""
    layout = case.layout()
    return router(case.x_TD(torch.float64), layout, case.draws(layout, number)), layout


@pytest.mark.parametrize("scope", ["joint", "modality"])
@few
@given(case=cases(), rate=st.sampled_from([0.001, 0.25]))
def test_the_bias_moves_as_the_reference_says(scope, case, rate):
    module = case.layer("loss-free", "bpr", "loop", torch.float64, bias_rate=rate, bias_scope=scope).router.train()
    if scope == "joint":
        module.bias_ME.copy_(module.bias_ME[:1].expand(2, -1).clone())
    expected, (_, modality, _) = module.bias_ME.tolist(), case.rows()
    for number in range(3):
        routing, layout = step(case, module, number)
        counts = [[0] * case.experts for _ in (slow.TEXT, slow.IMAGE)]
        for m, experts in zip(modality, asked(routing), strict=True):
            for expert in experts:
                counts[m][expert] += 1
        module.adjust(module.observe(routing, layout))
        expected = slow.move_bias(expected, counts, rate, joint=scope == "joint")
        for mine, row in zip(module.bias_ME.tolist(), expected, strict=True):
            assert mine == pytest.approx(row, abs=1e-9)


def test_the_bias_by_hand():
    # Pictures ask for experts 3, 1, 0 times of 3 (mean 4/3), words for 0, 0, 2 (mean 2/3); joint 3, 1, 2 (mean 2).
    observed = torch.tensor([[0, 0, 2], [3, 1, 0]], dtype=torch.float64)
    for scope, expected in (("modality", [[1, 1, -1], [-1, 1, 1]]), ("joint", [[-1, 1, 0], [-1, 1, 0]])):
        module = make_router(8, moe(experts=3, router="loss-free", bias_rate=0.5, bias_scope=scope), 0)
        module.adjust(observed)
        assert (module.bias_ME * 2).tolist() == expected


@pytest.mark.parametrize("name", ["top-k", "loss-free", "expert-choice", "uniform"])
@few
@given(case=cases(ties=False, noise=1.0))
def test_what_is_observed_sums_over_micro_batches(name, case):
    module = case.layer(name, "bpr", "loop", torch.float64).router.train()
    routing, layout = step(case, module)
    whole, x_TD = module.observe(routing, layout), case.x_TD(torch.float64)
    parts = torch.zeros_like(whole)
    for group in range(layout.groups):
        alone = case.layout(group * case.group_pairs, (group + 1) * case.group_pairs)
        part_TD = torch.zeros(len(alone.real_T), x_TD.shape[1], dtype=x_TD.dtype)
        part_TD[alone.real_T] = x_TD[(layout.group_T == group) & layout.real_T]
        parts += module.observe(module(part_TD, alone, case.draws(alone, first_group=group)), alone)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)


@few
@given(case=cases(), decay=st.sampled_from([0.0, 0.5, 0.99]))
def test_thresholds_follow_the_lowest_score_that_was_taken(case, decay):
    module = MoeMlp(8, 16, moe(**settings_of(case), router="expert-choice", threshold_decay=decay), 3).double().router.train()
    expected = [[1 / case.experts] * case.experts] * 2
    assert module.threshold_ME.tolist() == [pytest.approx(row, rel=1e-6) for row in expected]
    groups, modality, _ = case.rows()
    for number in range(4):
        routing, layout = step(case, module, number)
        probs = routing.noisy_TE.softmax(1).tolist()
        taken = slow.expert_choice(probs, groups, modality, case.k, case.factor)
        lowest = slow.lowest_taken(taken, probs, groups, modality)
        expected = [slow.follow(old, new, decay, number) for old, new in zip(expected, lowest, strict=True)]
        module.adjust(module.observe(routing, layout))
        for mine, row in zip(module.threshold_ME.tolist(), expected, strict=True):
            assert mine == pytest.approx(row, rel=1e-6)


def settings_of(case: Case) -> dict:
    sizes = {"experts": case.experts, "k": case.k, "capacity_factor": case.factor, "noise": case.noise}
    return sizes | {"group_pairs": case.group_pairs, "aux_weights": {"load": 0.0}}


@pytest.mark.parametrize("name,buffers", [("top-k", set()), ("loss-free", {"bias_ME"}), ("expert-choice", {"threshold_ME"})])
def test_what_a_router_remembers_is_in_the_checkpoint_and_not_in_the_gradients(name, buffers):
    module = make_router(8, moe(router=name), 1).train()
    assert buffers <= set(module.state_dict())
    assert [parameter for parameter, _ in module.named_parameters()] == ["weight"]
    assert not any(buffer.requires_grad for buffer in module.buffers())
    before = {key: value.clone() for key, value in module.state_dict().items()}
    layout = Layout.of(6, 1, torch.ones(6, dtype=torch.long), CPU)
    routing = module(torch.randn(12, 8), layout, NoiseKey(0, 0).draw(layout, 1, 4))
    observed = module.observe(routing, layout)
    assert not observed.requires_grad
    for key, value in module.state_dict().items():  # routing and observing move nothing
        assert torch.equal(value, before[key]), key
    module.adjust(observed)
    for key in buffers:
        assert not torch.equal(module.state_dict()[key], before[key])
        assert getattr(module, key).dtype == torch.float32


@pytest.mark.parametrize("scope", ["modality", "joint"])
def test_a_planted_imbalance_shrinks(scope):
    """All pictures favour expert 0 and all words expert 1, by less than their scores vary."""
    torch.manual_seed(0)
    module = make_router(
        8, moe(router="loss-free", noise=0.0, bias_rate=0.01, bias_scope=scope, aux_weights={"load": 0.0}), 1
    ).train()
    layout = Layout.of(64, 2, torch.full((64,), 2), CPU)
    x_TD = torch.randn(256, 8)
    x_TD[:, 4:] = 0
    x_TD[layout.modality_T == slow.IMAGE, 0] += 2
    x_TD[layout.modality_T == slow.TEXT, 1] += 2
    with torch.no_grad():
        module.weight.copy_(torch.eye(4, 8))
    history = []
    for number in range(120):
        routing = module(x_TD, layout, NoiseKey(0, number).draw(layout, 1, 4))
        counts_ME = [torch.bincount(routing.expert_TK[layout.modality_T == m, 0], minlength=4) for m in (slow.TEXT, slow.IMAGE)]
        history.append(torch.stack(counts_ME if scope == "modality" else [sum(counts_ME)]) / 128)
        module.adjust(module.observe(routing, layout))
    fair = 0.25 if scope == "modality" else 0.5
    assert (history[0].amax(1) > 1.5 * fair).all()
    assert ((torch.stack(history[-20:]).mean(0) - fair).abs() < 0.15 * fair).all()
