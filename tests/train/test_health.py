from __future__ import annotations

import math

import pytest
import torch

from limoe.errors import UserError
from limoe.model.router import Routing
from limoe.model.tokens import Layout
from limoe.train.health import FiniteGuard, RoutingMeter, effective_experts


def test_effective_experts_by_hand():
    assert effective_experts(torch.tensor([3, 3, 0, 0])) == pytest.approx(2)
    assert effective_experts(torch.tensor([7, 0])) == pytest.approx(1)
    assert effective_experts(torch.tensor([0, 0])) == 0
    assert effective_experts(torch.tensor([3, 1])) == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))


def step_of(expert: list[int], placed: list[bool]) -> tuple[Routing, Layout]:
    # Two pairs of one patch; captions of 1 and 2 tokens; two rows of padding.
    layout = Layout.of(2, 1, torch.tensor([1, 2]), torch.device("cpu"), text_shape=(5, 1))
    probs = torch.full((7, 3), 0.2)
    probs[torch.arange(7), torch.tensor(expert)] = 0.6
    chosen = torch.tensor(expert)[:, None]
    fits, asked = torch.tensor(placed)[:, None], layout.real_T[:, None]
    return Routing(probs.log(), probs.log(), probs, chosen, probs.gather(1, chosen), asked, fits, chosen, None, 0.0), layout


def test_meter_counts_by_hand():
    meter = RoutingMeter()
    # Rows: images 0-1, text 2-4, padding 5-6 (never placed, and never counted).
    routing, layout = step_of([0, 1, 2, 2, 1, 0, 0], [True, False, True, False, True, False, False])
    meter.add({3: routing}, layout)
    meter.add({3: routing}, layout)
    summary = meter.summary()
    assert summary["block3/image_placed"] == pytest.approx(1 / 2)
    assert summary["block3/text_placed"] == pytest.approx(2 / 3)
    assert summary["block3/text_lost"] == pytest.approx(1 / 3)
    assert summary["block3/image_effective_experts"] == pytest.approx(2)
    assert summary["block3/text_confidence"] == pytest.approx(0.6)
    rows = {(row["modality"], row["expert"]): row for row in meter.rows(20)}
    assert len(rows) == 6
    assert rows["text", 2] == {
        "step": 20,
        "layer": 3,
        "modality": "text",
        "expert": 2,
        "assigned": 4,
        "placed": 2,
        "tokens": 6,
        "confidence": pytest.approx(0.6),
    }
    assert rows["image", 0]["assigned"] == 2
    assert rows["text", 0]["assigned"] == 0


def test_meter_survives_a_checkpoint():
    meter, again = RoutingMeter(), RoutingMeter()
    meter.add({1: step_of([0] * 7, [True] * 5 + [False] * 2)[0]}, step_of([0] * 7, [True] * 7)[1])
    again.load_state_dict(meter.state_dict())
    assert again.rows(1) == meter.rows(1)
    meter.reset()
    assert meter.rows(1) == []


def test_guard_skips_and_gives_up():
    guard = FiniteGuard(limit=3)
    assert guard.passes(1.0, 1.0, 0, ("a",))
    assert not guard.passes(float("nan"), 1.0, 1, ("a",))
    assert not guard.passes(1.0, float("inf"), 2, ("a",))
    assert guard.passes(1.0, 1.0, 3, ("a",))  # a good step starts the count anew
    assert guard.skipped == 2
    guard.passes(float("nan"), 1.0, 4, ("a",))
    guard.passes(float("nan"), 1.0, 5, ("a",))
    with pytest.raises(UserError, match=r"diverged: at step 6 .* 3 steps in a row .*first-key"):
        guard.passes(float("nan"), 1.0, 6, ("first-key", "b"))


def test_a_token_is_lost_only_if_none_of_its_choices_found_a_place():
    # Three text tokens, K = 2: both placed, one placed, none placed.
    layout = Layout.of(0, 1, torch.tensor([3]), torch.device("cpu"))
    placed = torch.tensor([[True, True], [False, True], [False, False]])
    chosen = torch.tensor([[0, 1], [0, 1], [0, 1]])
    probs = torch.full((3, 2), 0.5)
    meter = RoutingMeter()
    meter.add({1: Routing(probs, probs, probs, chosen, probs, torch.ones_like(placed), placed, chosen, None, 0.0)}, layout)
    assert meter.summary()["block1/text_placed"] == pytest.approx(3 / 6)
    assert meter.summary()["block1/text_lost"] == pytest.approx(1 / 3)
