"""Every auxiliary loss: by hand, against slow loops, and pushing the router the right way."""

from __future__ import annotations

import math

import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from losskit import routing_of
from modelkit import moe

from limoe.losses import routing as losses
from limoe.losses.auxiliary import auxiliary_loss
from limoe.model.tokens import IMAGE, TEXT, Layout

ONE = torch.ones(1, 2)


def test_importance_by_hand():
    # Sums over tokens (1.5, 0.5): mean 1, population variance 0.25.
    assert losses.importance(torch.tensor([[0.75, 0.25], [0.75, 0.25]]), ONE).item() == pytest.approx(0.25)
    assert losses.importance(torch.tensor([[0.9, 0.1], [0.1, 0.9]]), ONE).item() == pytest.approx(0, abs=1e-7)


def test_load_by_hand():
    # One token, logits (1, 0), sigma 0.5, K 1, no noise drawn: eta = 1. p = (1 - Phi(0), 1 - Phi(2)) = (0.5, 0.02275).
    low = 0.5 * (1 - math.erf(2 / math.sqrt(2)))
    mean, half_range = (0.5 + low) / 2, (0.5 - low) / 2
    logits = torch.tensor([[1.0, 0.0]])
    assert losses.load(logits, logits, torch.ones(1, 1), 1, 0.5).item() == pytest.approx((half_range / mean) ** 2, rel=1e-5)
    with pytest.raises(ValueError, match="noise"):
        losses.load(logits, logits, torch.ones(1, 1), 1, 0.0)


def test_z_by_hand():
    # logsumexp(0, 0) = ln 2; logsumexp(ln 3, ln 3) = ln 6.
    logits = torch.tensor([[0.0, 0.0], [math.log(3), math.log(3)]])
    assert losses.z_loss(logits, ONE).item() == pytest.approx((math.log(2) ** 2 + math.log(6) ** 2) / 2)


def test_entropies_by_hand():
    confident = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # each token sure, together uniform
    assert losses.local_entropy(confident, ONE).item() == pytest.approx(0, abs=1e-6)
    assert losses.global_entropy(confident, ONE, math.log(2)).item() == pytest.approx(0, abs=1e-6)
    collapsed = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert losses.global_entropy(collapsed, ONE, math.log(2)).item() == pytest.approx(math.log(2))
    flat = torch.full((2, 2), 0.5)
    assert losses.local_entropy(flat, ONE).item() == pytest.approx(math.log(2))
    assert losses.global_entropy(flat, ONE, 2.0).item() == pytest.approx(2 - math.log(2))


def test_groups_are_told_apart_and_an_empty_one_says_nothing():
    # Group 0 holds rows 0 and 1, group 1 row 2, group 2 none; row 3 is padding.
    probs = torch.tensor([[0.75, 0.25], [0.75, 0.25], [0.5, 0.5], [1.0, 0.0]], requires_grad=True)
    weight = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    low, high = 0.75 * math.log(4 / 3) + 0.25 * math.log(4), math.log(2)
    logits = probs.log()  # logsumexp 0
    hand = {
        losses.importance(probs, weight): [0.25, 0.0, 0.0],
        losses.z_loss(logits, weight): [0.0, 0.0, 0.0],
        losses.local_entropy(probs, weight): [low, high, 0.0],
        losses.global_entropy(probs, weight, 1.0): [1 - low, 1 - high, 0.0],
    }
    for value_G, wanted in hand.items():
        assert value_G.tolist() == pytest.approx(wanted, abs=1e-6)
    load_G = losses.load(logits, logits, weight, 1, 0.5)
    assert load_G[2] == 0
    (load_G.sum() + sum(value_G.sum() for value_G in hand)).backward()
    assert probs.grad[:3].isfinite().all()


def test_the_threshold_is_a_floor_and_not_a_target():
    # Entropy ln 2 is above tau = ln 1.5: no loss and no gradient, rather than a negative loss.
    logits = torch.zeros(2, 2, requires_grad=True)
    loss = losses.global_entropy(logits.softmax(1), ONE, math.log(1.5))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().sum() == 0


@settings(max_examples=40, deadline=None)
@given(
    experts=st.integers(2, 6), pairs=st.integers(1, 4), groups=st.integers(1, 3), k=st.integers(1, 2), seed=st.integers(0, 9999)
)
def test_terms_equal_the_slow_ones(experts, pairs, groups, k, seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 4, (pairs * groups,), generator=generator)
    layout = Layout.of(pairs * groups, 2, lengths, torch.device("cpu"), group_pairs=pairs, text_shape=(7, 1))
    rows = len(layout.group_T)
    logits = torch.randn(rows, experts, generator=generator, dtype=torch.float64)
    noise = 0.3 * torch.randn(rows, experts, generator=generator, dtype=torch.float64)
    params = moe(experts=experts, k=k, aux_weights={"local_image": 1.0}, tau_text=1.5, tau_image=1.2)
    total, terms = auxiliary_loss({1: routing_of(logits, noise, k, sigma=0.3)}, layout, params)

    sums = dict.fromkeys(terms, 0.0)
    for g in range(groups):
        member = (layout.group_T == g) & layout.real_T
        clean, rough = logits[member].tolist(), (logits + noise)[member].tolist()
        probs = [reference.softmax(row) for row in clean]
        text = [p for p, m in zip(probs, layout.modality_T[member].tolist(), strict=True) if m == TEXT]
        image = [p for p, m in zip(probs, layout.modality_T[member].tolist(), strict=True) if m == IMAGE]
        sums["importance"] += reference.importance(probs) / groups
        sums["load"] += reference.load(clean, rough, k, 0.3) / groups
        sums["z"] += reference.z_loss(clean) / groups
        sums["local_text"] += reference.local_entropy(text) / groups
        sums["local_image"] += reference.local_entropy(image) / groups
        sums["global_text"] += reference.global_entropy(text, 1.5) / groups
        sums["global_image"] += reference.global_entropy(image, 1.2) / groups
    for name, value in sums.items():
        assert terms[name].item() == pytest.approx(value, rel=1e-9, abs=1e-12), name
    assert total.item() == pytest.approx(0.04 * sum(sums.values()) / 7, rel=1e-9)


@pytest.mark.parametrize("name", ["importance", "load", "z", "local_text", "global_text", "global_image"])
def test_each_term_pulls_a_collapsed_router_back(name):
    """All tokens on expert 0: the gradient exists, and a step against it lowers the term."""
    generator = torch.Generator().manual_seed(0)
    layout = Layout.of(4, 4, torch.tensor([2, 3, 1, 2]), torch.device("cpu"))
    rows = len(layout.group_T)
    x = torch.randn(rows, 8, generator=generator)
    x[:, 0] = 3.0
    weight = torch.zeros(4, 8)
    # Expert 0 gets logit 3 from every token. The load loss sees a margin through noise of size 1/E = 0.25: twelve sigmas away its
    # gradient is gone (which is why it cannot undo a full collapse alone), so it is tested at a margin of 0.45.
    weight[0, 0] = 0.15 if name == "load" else 1.0
    weight.requires_grad_()
    noise = 0.25 * torch.randn(rows, 4, generator=generator)
    off = dict.fromkeys(("importance", "load", "z", "local_text", "global_text", "global_image"), 0.0)
    params = moe(aux_weights=off | {name: 1.0})

    def term():
        return auxiliary_loss({1: routing_of(x @ weight.T, noise)}, layout, params)[0]

    before = term()
    before.backward()
    assert weight.grad.abs().max() > 1e-6
    with torch.no_grad():
        weight -= 0.5 * weight.grad / weight.grad.norm()
    assert term() < before
    if name.startswith("global"):  # and it is the router's collapse that is undone: the favourite loses probability
        modality = TEXT if name == "global_text" else IMAGE
        of_modality = layout.modality_T == modality
        assert (x @ weight.T).softmax(1)[of_modality, 0].mean() < torch.tensor([3.0, 0, 0, 0]).softmax(0)[0]
