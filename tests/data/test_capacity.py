"""The routing arithmetic by hand, against a simulation that gives places out one by one, and against the router itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from limoe.config import PRIORITIES
from limoe.data.capacity import Group, binomial, expected_min, expected_placed
from limoe.model.router.places import capacities, claim, claim_order
from limoe.model.tokens import Layout


def hand_out(experts_TK: np.ndarray, capacity: int) -> np.ndarray:
    """Give places out one by one, every first choice before any second one; bool (T, K)."""
    room = [capacity] * (int(experts_TK.max()) + 1)
    placed = np.zeros(experts_TK.shape, bool)
    for choice in range(experts_TK.shape[1]):
        for token in range(len(experts_TK)):
            expert = experts_TK[token, choice]
            placed[token, choice] = room[expert] > 0
            room[expert] -= 1
    return placed


def test_fair_share_and_capacity_by_hand() -> None:
    group = Group(image=9216, text=2304, experts=16, k=1, capacity_factor=1.05)
    assert group.fair_share == 720
    assert group.capacity == 756
    assert Group(9216, 2305, 16, 2, 1.05).capacity == math.ceil(1512.13125)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(2, 64), st.integers(1, 2), st.floats(0.5, 4))
def test_capacity_is_the_router_s(image: int, text: int, experts: int, k: int, factor: float) -> None:
    group = Group(image, text, experts, k, factor)
    assert min(group.capacity, image + text) == capacities(torch.tensor([image + text]), k, factor, experts).item()


def test_text_placed_by_hand() -> None:
    group = Group(image=80, text=20, experts=10, k=1, capacity_factor=1.05)  # 8 images an expert, 11 places
    assert group.capacity == 11
    assert group.text_placed(1, text_first=False) == pytest.approx(3 / 20)
    assert group.text_placed(1, text_first=True) == pytest.approx(11 / 20)
    assert group.text_placed(2, text_first=True) == 1
    assert group.text_placed(4, text_first=False) == pytest.approx(3 * 4 / 20)
    assert group.text_placed(10, text_first=False) == 1


@pytest.mark.parametrize("text_first", [False, True])
@pytest.mark.parametrize("k, text_experts", [(1, 1), (1, 3), (2, 2), (2, 4)])
def test_text_placed_against_handing_out_one_by_one(k: int, text_experts: int, text_first: bool) -> None:
    experts, image, text = 12, 1200, 240
    group = Group(image, text, experts, k, 1.1)
    images = np.stack([(np.arange(image) + j) % experts for j in range(k)], axis=1)
    texts = np.stack([(np.arange(text) + j) % text_experts for j in range(k)], axis=1)
    parts = [texts, images] if text_first else [images, texts]
    placed = hand_out(np.concatenate(parts), group.capacity)
    mine = placed[:text] if text_first else placed[image:]
    assert group.text_placed(text_experts, text_first) == pytest.approx(mine.mean(), abs=2 * text_experts / text)


def test_factor_needed_is_where_the_share_is_reached() -> None:
    for k in (1, 2):
        for text_experts in (2, 5, 12):
            needed = Group(1200, 240, 12, k, 1.0).factor_needed(text_experts, 0.9)
            enough = Group(1200, 240, 12, k, needed).text_placed(text_experts, text_first=False)
            below = Group(1200, 240, 12, k, needed * 0.97).text_placed(text_experts, text_first=False)
            assert below < enough
            assert enough >= (0.9 + k - 1) / k - 1e-9
    assert Group(1200, 240, 12, 1, 1.0).factor_needed(12, 1.0) == pytest.approx(1.0)


def test_experts_needed_by_hand() -> None:
    group = Group(image=9216, text=2304, experts=16, k=1, capacity_factor=1.05)  # 756 places
    assert group.experts_needed(2304, 1.0) == 4  # 3.05
    assert group.experts_needed(2268, 1.0) == 3  # exactly 3
    assert group.experts_needed(9216, 0.95) == 12  # 11.6
    assert group.experts_needed(1, 0.95) == 1
    assert Group(9216, 2304, 16, 1, 0.5).experts_needed(9216, 1.0) == 16


@given(st.integers(0, 60), st.integers(2, 9), st.integers(0, 80))
def test_binomial_equals_scipy(trials: int, experts: int, most: int) -> None:
    expected = stats.binom.pmf(np.arange(most + 1), trials, 1 / experts)
    np.testing.assert_allclose(binomial(trials, 1 / experts, most), expected, atol=1e-12)


def test_expected_min_by_hand() -> None:
    np.testing.assert_allclose(expected_min(2, 3, 2), [0, 0.75, 1, 1])  # M is 0, 1, 2 with chances 1/4, 1/2, 1/4
    np.testing.assert_allclose(expected_min(2, 0, 2), [0])


def test_expected_placed_against_simulation() -> None:
    before, mine, capacity, experts = 90, 30, 14, 8
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(3000):
        loads = np.bincount(rng.integers(0, experts, before), minlength=experts)
        claims = np.bincount(rng.integers(0, experts, mine), minlength=experts)
        shares.append(np.minimum(claims, np.maximum(capacity - loads, 0)).sum() / mine)
    assert expected_placed(before, mine, capacity, experts) == pytest.approx(np.mean(shares), abs=4 * np.std(shares) / 3000**0.5)


def test_random_routing_against_the_router_s_placing() -> None:
    group = Group(image=320, text=64, experts=8, k=1, capacity_factor=1.05)
    generator = torch.Generator().manual_seed(0)
    layout = Layout.of(5, 64, torch.tensor([13, 13, 13, 13, 12]), torch.device("cpu"))
    alike, text_last = [], []
    for _ in range(400):
        expert_TK = torch.randint(0, 8, (384, 1), generator=generator)
        placed = claim(expert_TK, torch.arange(384), layout, group.capacity_factor, 8).placed_TK
        alike.append(placed.float().mean().item())
        text_last.append(placed[320:].float().mean().item())
    assert group.placed_at_random() == pytest.approx(np.mean(alike), abs=4 * np.std(alike) / 20)
    dropped_text, dropped_image = group.dropped_at_random("first-come")
    assert 1 - dropped_text == pytest.approx(np.mean(text_last), abs=4 * np.std(text_last) / 20)
    assert dropped_text > 1 - group.placed_at_random() > dropped_image


def test_random_factor_needed_reaches_the_share_and_falls_with_the_group() -> None:
    small, large = Group(40, 8, 8, 1, 1.0), Group(4000, 800, 8, 1, 1.0)
    for group in (small, large):
        factor = group.random_factor_needed(0.95)
        assert Group(group.image, group.text, 8, 1, factor).placed_at_random() >= 0.95
        lower = factor - 1.01 / group.fair_share
        assert Group(group.image, group.text, 8, 1, lower).placed_at_random() < 0.95
    assert small.random_factor_needed(0.95) > large.random_factor_needed(0.95)


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("rule", PRIORITIES)
def test_dropped_at_random_against_the_router_s_placing(rule: str, k: int) -> None:
    group = Group(image=320, text=64, experts=8, k=k, capacity_factor=1.0)
    generator = torch.Generator().manual_seed(1)
    layout = Layout.of(5, 64, torch.tensor([13, 13, 13, 13, 12]), torch.device("cpu"))
    dropped = []
    for _ in range(400):
        expert_TK = torch.rand(384, 8, generator=generator).argsort(1)[:, :k]
        gate_TK = torch.rand(384, k, generator=generator)
        order_T = claim_order(rule, gate_TK, layout, torch.rand(384, generator=generator))
        lost = ~claim(expert_TK, order_T, layout, group.capacity_factor, 8).placed_TK
        dropped.append((lost[320:].float().mean().item(), lost[:320].float().mean().item()))
    for mine, found in zip(group.dropped_at_random(rule), zip(*dropped, strict=True), strict=True):
        independent = 0.015 * (k - 1)  # the closed form takes them for that, and a token's two choices are not
        assert mine == pytest.approx(np.mean(found), abs=4 * np.std(found) / 20 + independent + 1e-9)


@pytest.mark.parametrize("text_first", [False, True])
@pytest.mark.parametrize("k", [1, 2])
def test_the_worst_case_against_handing_out_one_by_one(k: int, text_first: bool) -> None:
    image, text, experts = 80, 12, 8
    group, rng, placed = Group(image, text, experts, k, 1.4), np.random.default_rng(0), []
    for _ in range(600):
        images = rng.permuted(np.tile(np.arange(experts), (image, 1)), axis=1)[:, :k]
        texts = np.stack([(np.arange(text) + j) % k for j in range(k)], axis=1)
        parts = [texts, images] if text_first else [images, texts]
        found = hand_out(np.concatenate(parts), group.capacity)
        placed.append((found[:text] if text_first else found[image:]).mean())
    assert group.worst_text_placed(text_first) == pytest.approx(np.mean(placed), abs=4 * np.std(placed) / 600**0.5 + 0.01)


@pytest.mark.parametrize("text_first", [False, True])
def test_the_worst_factor_is_the_smallest_that_keeps_the_share(text_first: bool) -> None:
    group = Group(image=360, text=90, experts=8, k=1, capacity_factor=1.0)
    needed = group.worst_factor_needed(0.9, text_first)
    places = round(needed * group.fair_share)
    assert group.worst_text_placed(text_first, places) >= 0.9 > group.worst_text_placed(text_first, places - 1)
    if text_first:
        assert places == 81  # 90% of 90: images come later, if at all
    assert Group(360, 90, 8, 1, needed).capacity == places
