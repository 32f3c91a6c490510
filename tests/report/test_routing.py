"""Routing figures from planted logs, by hand."""

import math

import numpy as np
import pytest
from reportkit import routing_rows

from limoe.report.routing import RoutingLog
from limoe.report.routing_figures import load_map, placed_lines
from limoe.report.tables import routing_table


def test_shares_placed_and_effective_experts_by_hand():
    log = RoutingLog.of(routing_rows(steps=range(10, 11, 10)))
    assert log.assigned_SLME.shape == (1, 2, 2, 4)
    np.testing.assert_allclose(log.share_SLME[0, 0, 0], [1 / 7, 1 / 7, 1 / 7, 4 / 7], atol=1e-3)
    entropy = 3 * math.log(7) / 7 + 4 / 7 * math.log(7 / 4)
    assert log.effective_SLM[0, 0, 0] == pytest.approx(math.exp(entropy), abs=0.01)
    assert log.placed_SLM[0, 1, 0] == pytest.approx(1 - 0.5 * math.exp(-0.1), abs=0.01)
    assert log.confidence_SLM[0, 0].tolist() == [0.4, 0.2]


def test_the_window_is_the_last_fifty_steps():
    log = RoutingLog.of(routing_rows(steps=range(10, 201, 10)))
    assert log.last(log.steps_S.astype(float)) == pytest.approx(np.mean([160, 170, 180, 190, 200]))


def test_an_unused_expert_costs_nothing_and_an_unused_modality_is_no_division_by_zero():
    table = routing_rows(steps=range(10, 11, 10)).to_pandas()
    table.loc[table["modality"] == "text", ["assigned", "placed"]] = 0
    table.loc[table["expert"] == 0, ["assigned", "placed"]] = 0
    import pyarrow as pa

    log = RoutingLog.of(pa.Table.from_pandas(table))
    assert log.effective_SLM[0, 0, 0] == 1
    assert log.placed_SLM[0, 0, 0] == 0
    assert 1 < log.effective_SLM[0, 0, 1] <= 3


def test_a_model_without_experts_has_an_empty_log():
    assert RoutingLog.of(routing_rows()[:0]).empty


def test_the_map_puts_the_text_specialist_first_and_sums_to_a_hundred():
    figure = load_map(RoutingLog.of(routing_rows()))
    assert len(figure.data) == 2
    assert figure.data[0]["x"] == ["4", "1", "2", "3"]
    assert [sum(row) for row in figure.data[0]["z"]] == pytest.approx([100, 100], abs=0.1)
    assert figure.data[0]["zmax"] == figure.data[1]["zmax"] == max(max(row) for trace in figure.data for row in trace["z"])


def test_placed_lines_are_one_a_layer_and_modality():
    figure = placed_lines(RoutingLog.of(routing_rows()))
    assert [trace["name"] for trace in figure.data] == ["block 1, text", "block 1, image", "block 3, text", "block 3, image"]
    assert figure.data[0]["y"][0] < 60 < 98 < figure.data[0]["y"][-1]


def test_the_table_repeats_the_figures():
    table = routing_table(RoutingLog.of(routing_rows()))
    assert [(row[0].text, row[0].note) for row in table.rows][:2] == [("block 1", "text"), ("block 1", "image")]
    assert table.rows[0][1].text.startswith("99.")
    assert table.rows[0][2].note == "of 4"
