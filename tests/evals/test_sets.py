"""Which rows a view keeps, which evaluators a split gets, and what an outcome becomes on disk."""

from pathlib import Path

import numpy as np
import pytest
from evalkit import eval_set

from limoe.config import Params
from limoe.evals.sets import ITEM_SCHEMA, Items, Outcome, Score, has_skin_tone, is_country_flag, item_table, result_rows
from limoe.evals.suite import evaluation_splits, evaluators, headline_metrics

PARAMS = Params.load(Path(__file__).parents[2] / "params.yaml").evaluate


@pytest.mark.parametrize(
    "points, expected", [("1F44B", False), ("1F44B-1F3FB", True), ("1F468-1F3FF-200D-1F692", True), ("1F3FA", False)]
)
def test_skin_tones_are_the_five_modifiers(points, expected):
    assert has_skin_tone(f"emoji/twemoji/{points}") is expected


@pytest.mark.parametrize(
    "points, expected",
    [
        ("1F1E9-1F1EA", True),
        ("1F1E9", False),
        ("1F3F4-E0067-E0062", False),
        ("1F3F3-200D-1F308", False),
        ("1F1E9-1F1EA-1F1EB", False),
    ],
)
def test_a_country_flag_is_two_regional_indicators(points, expected):
    assert is_country_flag(f"emoji/openmoji/{points}") is expected


def test_test_sets_come_first_and_training_is_never_opened():
    splits = ["train", "val", "odd", "test-scenes", "unseen-concept", "val-style", "unseen-style"]
    assert evaluation_splits(splits) == ["unseen-style", "unseen-concept", "test-scenes", "val", "val-style", "odd"]


def names(data):
    return [(type(evaluator).__name__, evaluator.name) for evaluator in evaluators(data, PARAMS)]


def test_unseen_style_is_scored_whole_without_skin_tones_and_by_retrieval():
    keys = ["emoji/openmoji/1F44B", "emoji/openmoji/1F44B-1F3FB", "emoji/openmoji/1F600"]
    data = eval_set([["a", "x"], ["b"], ["c"]], ["a", "b", "c"], keys, name="unseen-style")
    assert names(data) == [
        ("ZeroShot", "unseen-style"),
        ("ZeroShot", "unseen-style/no-skin-tones"),
        ("Retrieval", "unseen-style"),
    ]
    assert evaluators(data, PARAMS)[1].classes == ["a", "c"]


def test_a_view_with_one_class_left_is_not_scored():
    data = eval_set([["a", "x"], ["b"]], ["a", "b"], ["emoji/t/1F1E9-1F1EA", "emoji/t/1F600"], name="unseen-concept")
    assert names(data) == [("ZeroShot", "unseen-concept"), ("Retrieval", "unseen-concept")]


def test_captions_that_are_class_names_only_are_no_retrieval():
    assert names(eval_set([["a"], ["b"]], ["a", "b"])) == [("ZeroShot", "val")]


def test_captions_without_labels_are_retrieval_only():
    assert names(eval_set([["a"], ["b"]])) == [("Retrieval", "val")]


def test_rows_without_a_label_are_left_out_of_zero_shot():
    assert evaluators(eval_set([["a"], ["b"], ["c"]], ["x", None, "y"]), PARAMS)[0].classes == ["x", "y"]


def test_rows_without_a_caption_are_left_out_of_retrieval():
    data = eval_set([["a"], [], ["b"]])
    assert data.described == [0, 2]
    assert names(data) == [("Retrieval", "val")]
    assert names(eval_set([["a"], [], []])) == []


def test_an_outcome_becomes_rows_and_items():
    items = Items(("p", "q"), ("g", "g"), {"top1": np.array([1.0, 0.0])})
    outcome = Outcome("val", (items,), (Score("chance", 1 / 3, 3),))
    assert result_rows([outcome]) == [
        {"set": "val", "metric": "top1", "value": 0.5, "n": 2},
        {"set": "val", "metric": "chance", "value": 0.333333, "n": 3},
    ]
    table = item_table([outcome])
    assert table.schema == ITEM_SCHEMA
    assert table.to_pylist()[1] == {"set": "val", "metric": "top1", "key": "q", "group": "g", "value": 0.0}
    assert item_table([]).num_rows == 0


def test_at_most_twelve_headlines_every_set_before_any_second_metric():
    metrics = ["top1", "top5", "i2t_r1", "i2t_r5", "t2i_r1"]
    rows = [{"set": f"s{number}", "metric": metric, "value": number / 10} for number in range(9) for metric in metrics]
    rows += [{"set": "scenes", "metric": metric, "value": 0.9} for metric in ("i2t_r1", "i2t_r10", "t2i_r1")]
    found = headline_metrics(rows)
    assert sum(map(len, found.values())) == 12
    assert found["s0"] == {"top1": 0.0, "top5": 0.0}
    assert found["s8"] == {"top1": 0.8}
    assert found["scenes"] == {"i2t_r1": 0.9, "t2i_r1": 0.9}
