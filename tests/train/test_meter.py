from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from healthkit import step_of

from limoe.model.router import Routing
from limoe.model.tokens import Layout
from limoe.train.meter import RoutingMeter, count, effective_experts, routing_rows, routing_summary

CPU = torch.device("cpu")


def test_effective_experts_by_hand():
    assert effective_experts(torch.tensor([3, 3, 0, 0])) == pytest.approx(2)
    assert effective_experts(torch.tensor([7, 0])) == pytest.approx(1)
    assert effective_experts(torch.tensor([0, 0])) == 0
    assert effective_experts(torch.tensor([3, 1])) == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))


def test_meter_counts_by_hand():
    meter = RoutingMeter(CPU)
    # Rows: images 0-1, text 2-4, padding 5-6 (never placed, and never counted).
    routing, layout = step_of([0, 1, 2, 2, 1, 0, 0], [True, False, True, False, True, False, False])
    meter.add(count({3: routing}, layout))
    meter.add(count({3: routing}, layout))
    summary = routing_summary(meter.totals)
    assert summary["block3/image_placed"] == pytest.approx(1 / 2)
    assert summary["block3/text_placed"] == pytest.approx(2 / 3)
    assert summary["block3/text_lost"] == pytest.approx(1 / 3)
    assert summary["block3/image_effective_experts"] == pytest.approx(2)
    assert summary["block3/text_confidence"] == pytest.approx(0.6)
    square = (2 * math.log(0.2) ** 2 + math.log(0.6) ** 2) / 3  # every row has the same three logits, in some order
    assert summary["block3/text_logits"] == pytest.approx(math.sqrt(square))
    assert summary["block3/image_logits"] == pytest.approx(math.sqrt(square))
    assert summary["block3/dead_experts"] == 0  # images chose 0 and 1, text 1 and 2
    rows = {(row["modality"], row["expert"]): row for row in routing_rows(meter.totals, 20)}
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
    meter, again = RoutingMeter(CPU), RoutingMeter(CPU)
    meter.add(count({1: step_of([0] * 7, [True] * 5 + [False] * 2)[0]}, step_of([0] * 7, [True] * 7)[1]))
    again.load_state_dict(meter.state_dict())
    assert routing_rows(again.totals, 1) == routing_rows(meter.totals, 1)
    meter.reset()
    assert meter.totals == {}


def test_a_token_is_lost_only_if_none_of_its_choices_found_a_place():
    # Three text tokens, K = 2: both placed, one placed, none placed.
    layout = Layout.of(0, 1, torch.tensor([3]), torch.device("cpu"))
    placed = torch.tensor([[True, True], [False, True], [False, False]])
    chosen = torch.tensor([[0, 1], [0, 1], [0, 1]])
    probs = torch.full((3, 2), 0.5)
    meter = RoutingMeter(CPU)
    meter.add(count({1: Routing(probs, probs, probs, chosen, probs, torch.ones_like(placed), placed, chosen, None, 0.0)}, layout))
    assert routing_summary(meter.totals)["block1/text_placed"] == pytest.approx(3 / 6)
    assert routing_summary(meter.totals)["block1/text_lost"] == pytest.approx(1 / 3)


def test_an_expert_is_dead_if_neither_modality_chose_it():
    meter, layout = RoutingMeter(CPU), step_of([1] * 7, [True] * 7)[1]
    meter.add(count({1: step_of([1, 1, 1, 1, 1, 0, 2], [True] * 7)[0]}, layout))  # 0 and 2: padding's
    assert routing_summary(meter.totals)["block1/dead_experts"] == pytest.approx(2 / 3)
    meter.add(count({1: step_of([1, 1, 2, 1, 1, 0, 0], [False] * 7)[0]}, layout))  # chosen, without a place
    assert routing_summary(meter.totals)["block1/dead_experts"] == pytest.approx(1 / 3)


def test_what_padding_holds_is_never_seen():
    routing, layout = step_of([0, 1, 2, 2, 1, 0, 0], [True] * 5 + [False] * 2)
    meter, clean = RoutingMeter(CPU), RoutingMeter(CPU)
    clean.add(count({1: routing}, layout))
    spoilt = [x.masked_fill(~layout.real_T[:, None], float("nan")) for x in (routing.logits_TE, routing.probs_TE)]
    meter.add(count({1: dataclasses.replace(routing, logits_TE=spoilt[0], probs_TE=spoilt[1])}, layout))
    assert routing_summary(meter.totals) == routing_summary(clean.totals)
