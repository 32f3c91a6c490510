"""Tables, figures and timing show the figures that they were given, in the right cell."""

import pytest
from evalkit import tiny_params
from reportkit import plant, plant_averaged

from limoe.config import CONTESTANTS
from limoe.files import write_json
from limoe.paths import Paths
from limoe.report import figures, tables
from limoe.report.document import Cards, Fold, Table
from limoe.report.evidence import load_evidence
from limoe.report.lineup import Lineup
from limoe.report.scores import duels, measure
from limoe.report.story import tell
from limoe.report.timing import timing_markdown, timing_rows

PARAMS = tiny_params()
ZERO, SCENES = {"limoe": 0.30, "dense": 0.20, "clip": 0.40}, {"limoe": 0.5, "dense": 0.5, "clip": 0.1}


@pytest.fixture(scope="module")
def evidence(tmp_path_factory):
    return load_evidence(plant(tmp_path_factory.mktemp("planted"), PARAMS, ZERO, SCENES), CONTESTANTS)


@pytest.fixture(scope="module")
def measured(evidence):
    return measure(evidence, PARAMS.compare, 15)


@pytest.fixture(scope="module")
def found(evidence):
    return duels(evidence, PARAMS.compare)


def alone(evidence):
    return Lineup(evidence, {one.name: [one] for one in evidence}, {})


def rows_of(table):
    return {(row[0].text, row[0].note): row for row in table.rows}


def test_each_score_stands_under_its_model_beside_its_chance(evidence, measured):
    table = tables.score_table(measured, evidence, "caption")
    assert list(table.columns) == ["Set", "LIMoE", "Dense tower", "CLIP", "Chance", "Items"]
    rows = rows_of(table)
    assert [cell.text for cell in rows["unseen-style", "top-1"][1:]] == ["30.0%", "20.0%", "40.0%", "0.50%", "200"]
    assert rows["unseen-style", "top-5"][4].text == "2.50%"
    assert rows["unseen-style", "calibration error"][4].text == ""
    scenes = rows["test-scenes", "picture to caption, R@1"]
    assert [cell.text for cell in scenes[1:]] == ["50.0%", "50.0%", "10.0%", "", "150"]
    low, high = (float(bound) for bound in scenes[3].note.split(" to "))
    assert low < 10 < high


def test_averaged_weights_stand_beside_the_last_ones_if_there_are_any(tmp_path, evidence):
    assert tables.averaged_table(evidence, ["unseen-style"], "caption") is None
    paths = plant(tmp_path, PARAMS, ZERO, SCENES)
    plant_averaged(paths, "clip", 0.5)
    table = tables.averaged_table(load_evidence(paths, CONTESTANTS), ["unseen-style"], "caption")
    assert list(table.columns) == ["Set", "CLIP"]
    rows = rows_of(table)
    assert set(rows) == {("unseen-style", "top-1"), ("unseen-style", "top-5")}
    assert (rows["unseen-style", "top-1"][1].text, rows["unseen-style", "top-1"][1].note) == ("50.0%", "last weights: 40.0%")


def test_each_duel_has_its_verdict_and_both_scores(found):
    table = tables.duel_table(found)
    rows = {(row[0].text, row[0].note, row[1].text): row for row in table.rows}
    against_dense = rows["unseen-style", "top-1", "Dense tower"]
    assert [against_dense[column].text for column in (2, 3, 4, 5)] == ["30.0%", "20.0%", "+10.0", "20 / 0"]
    assert (against_dense[7].text, against_dense[7].tone) == ("better", "good")
    assert (rows["unseen-style", "top-1", "CLIP"][7].text, rows["unseen-style", "top-1", "CLIP"][7].tone) == ("worse", "bad")
    even = rows["test-scenes", "picture to caption, R@1", "Dense tower"]
    assert (even[4].text, even[6].text, even[7].text) == ("0.0", "1.000", "no difference shown")


def test_the_forest_plots_every_score_with_its_interval(evidence, measured):
    chosen = [one for one in measured if one.metric in ("top1", "i2t_r1") and one.set != "val"]
    figure = figures.forest(chosen, evidence, "caption")
    limoe, dense, clip, chance = figure.data
    assert [trace["name"] for trace in (limoe, dense, clip)] == ["LIMoE", "Dense tower", "CLIP"]
    assert limoe["x"][0] == 30
    mine = chosen[0]
    assert limoe["error_x"]["array"][0] == pytest.approx(100 * (mine.high - mine.value), abs=1e-3)
    assert limoe["error_x"]["arrayminus"][0] == pytest.approx(100 * (mine.value - mine.low), abs=1e-3)
    assert limoe["y"][0] < dense["y"][0] < clip["y"][0]
    assert chance["x"] == [0.5, 1.0, 0.5]


def test_curves_follow_the_log(evidence):
    figure = figures.curves(evidence)
    assert figure.data[1]["x"] == list(range(10, 601, 10))
    assert figure.data[1]["y"][0] == pytest.approx(evidence[1].curve[0]["contrastive"], abs=1e-4)


def test_settings_name_where_contestants_differ(evidence):
    rows = rows_of(tables.settings_table(evidence))
    assert [cell.text for cell in rows["model.kind", ""][1:]] == ["`limoe`", "`dense`", "`clip`"]


def test_a_setting_that_is_null_everywhere_is_shown_as_null(evidence):
    rows = rows_of(tables.settings_table(evidence))
    assert [cell.text for cell in rows["model.clip", ""][1:]] == ["`null`"] * 3


def test_cards_hold_each_contestants_own_figures(evidence, measured, found):
    cards = next(
        block for block in tell(alone(evidence), measured, found, PARAMS.compare, "timing.md").lead if isinstance(block, Cards)
    )
    assert [card.lines[0][0] for card in cards.cards] == ["30.0%", "20.0%", "40.0%"]
    assert [card.lines[1][0] for card in cards.cards] == ["50.0%", "50.0%", "10.0%"]


def test_a_report_without_experts_has_no_routing_section(evidence, measured, found):
    document = tell(alone([evidence[1], evidence[0], evidence[2]]), measured, found, PARAMS.compare, "timing.md")
    assert "routing" not in {section.id for section in document.sections}
    assert any(isinstance(block, Fold | Table) for section in document.sections for block in section.blocks)


def test_timing_shows_what_was_measured_and_a_dash_for_what_was_not(tmp_path):
    paths = Paths(tmp_path)
    write_json(paths.timing("train-dense"), {"step_ms_median": 250.5, "peak_rss_mb": 900, "device": "cpu"})
    rows = {row[0]: row[1:] for row in timing_rows(paths, ["limoe", "dense"])}
    assert rows["median step, ms"] == ["–", "250.5"]
    assert rows["peak memory, MB"] == ["–", "900"]
    assert rows["precision"] == ["–", "–"]
    assert "| median step, ms | – | 250.5 |" in timing_markdown(paths, ["limoe", "dense"])
