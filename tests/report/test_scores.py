"""Intervals and duels over planted evidence."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from evalkit import tiny_params
from reportkit import only_validation, plant, plant_averaged

from limoe.config import CONTESTANTS, SHARED
from limoe.errors import UserError
from limoe.evals.sets import Items
from limoe.files import read_json, write_json
from limoe.paths import Paths
from limoe.report.evidence import load_evidence
from limoe.report.scores import duels, has_tests, is_selection, measure, reported_sets

PARAMS = tiny_params()


@pytest.fixture(scope="module")
def evidence(tmp_path_factory):
    zero, scenes = {"limoe": 0.3, "dense": 0.3, "clip": 0.4}, {"limoe": 0.5, "dense": 0.2, "clip": 0.5}
    return load_evidence(plant(tmp_path_factory.mktemp("planted"), PARAMS, zero, scenes), CONTESTANTS)


@pytest.fixture(scope="module")
def measured(evidence):
    return measure(evidence, PARAMS.compare, bins=15)


def test_every_score_has_an_interval_around_it(evidence, measured):
    assert {(one.set, one.metric) for one in measured} == {
        (name, metric) for name, metric in evidence[0].scores if metric not in ("chance", "confidence")
    }
    for one in measured:
        assert 0 <= one.low <= one.value + 1e-9
        assert one.value - 1e-9 <= one.high <= 1
        assert one.low < one.high
    assert [one.model for one in measured] == [name for name in CONTESTANTS for _ in range(len(measured) // 3)]


def test_the_values_are_the_planted_ones(measured):
    scores = {(one.model, one.set, one.metric): one for one in measured}
    assert scores["clip", "unseen-style", "top1"].value == 0.4
    assert scores["clip", "unseen-style", "top1"].n == 200
    assert scores["limoe", "test-scenes", "i2t_r1"].value == 0.5
    assert scores["limoe", "unseen-style", "calibration"].value == pytest.approx(0.05)
    assert set(scores["limoe", "val", "top1"].row()) == {"model", "set", "metric", "value", "low", "high", "n"}


def per_class(evidence, hits_CN):
    """The same contestants on a set `own` of 95 pictures of one class and 5 of another, scored by their mean per class."""
    weights = np.repeat([100 / (2 * 95), 100 / (2 * 5)], [95, 5])
    keys = tuple(map(str, range(100)))
    found = []
    for one, hits_N in zip(evidence, hits_CN, strict=True):
        values = {"top1": hits_N, "top5": hits_N, "per_class": hits_N * weights, "class_weight": weights}
        items = {("own", metric): Items(keys, keys, {metric: value}) for metric, value in values.items()}
        scores = {place: (float(one.values[place[1]].mean()), 100) for place, one in items.items()}
        found.append(replace(one, items=items, scores=scores))
    return found


def test_a_mean_per_class_of_classes_of_unequal_size_has_an_interval_between_0_and_1(evidence):
    """All hit; 4 of the 5 hit; none hit."""
    hits = np.ones((3, 100))
    hits[1, 99], hits[2] = 0, 0
    found = {(one.model, one.metric): one for one in measure(per_class(evidence, hits), PARAMS.compare, bins=15)}
    assert {metric for _, metric in found} == {"top1", "top5", "per_class"}
    whole, most, none = (found[name, "per_class"] for name in CONTESTANTS)
    assert (whole.value, most.value, none.value) == (pytest.approx(1), pytest.approx(0.9), 0)
    assert (whole.low, whole.high) == (found["limoe", "top1"].low, 1)
    assert (none.low, none.high) == (0, found["clip", "top1"].high)
    assert 0.5 < most.low < 0.9 < most.high <= 1


def test_means_per_class_of_two_models_are_compared_by_the_same_weights(evidence):
    hits = np.zeros((3, 100))
    hits[0], hits[1, :95], hits[2, 95:] = 1, 1, 1
    dense, clip = (one.paired for one in duels(per_class(evidence, hits), PARAMS.compare, ("per_class",)))
    assert (dense.difference, clip.difference) == (pytest.approx(0.5), pytest.approx(0.5))
    for one in (dense, clip):
        assert 0 < one.interval.low < 0.5 < one.interval.high < 1
    assert dense.p > clip.p


def test_one_family_of_test_sets_only_and_in_the_right_direction(evidence):
    found = duels(evidence, PARAMS.compare)
    tests = {(one.set, one.metric) for one in found}
    assert tests == {
        ("unseen-style", "top1"),
        ("unseen-style/no-skin-tones", "top1"),
        ("unseen-concept", "top1"),
        ("test-scenes", "i2t_r1"),
        ("test-scenes", "t2i_r1"),
    }
    verdicts = {(one.baseline, one.set, one.metric): one.paired.verdict for one in found}
    assert verdicts["dense", "test-scenes", "i2t_r1"] == "better"
    assert verdicts["clip", "unseen-style", "top1"] == "worse"
    assert verdicts["dense", "unseen-style", "top1"] == verdicts["clip", "test-scenes", "i2t_r1"] == "no difference shown"
    smallest = min(found, key=lambda one: one.paired.p)
    assert smallest.paired.p_holm == pytest.approx(min(1, len(found) * smallest.paired.p))


def test_validation_sets_are_tested_only_where_there_is_no_other(evidence, tmp_path):
    found = load_evidence(only_validation(plant(tmp_path, PARAMS)), CONTESTANTS)
    assert {one.set for one in duels(found, PARAMS.compare)} == set(reported_sets(found)) == {"val"}
    assert not has_tests(found)
    assert has_tests(evidence)
    assert "val" not in reported_sets(evidence)


def test_views_of_validation_sets_are_validation():
    assert is_selection("val-style/anything")
    assert not is_selection("unseen-style/no-skin-tones")


@pytest.mark.parametrize(
    "what, value, message",
    [
        ("data", "0" * 64, "prepared sets"),
        ("sets", {"mine": "0"}, "sets of evaluate.sets"),
        ("evaluate", {}, "evaluate settings"),
    ],
)
def test_scores_on_other_data_or_settings_are_not_compared(tmp_path, what, value, message):
    paths = plant(tmp_path, PARAMS)
    path = paths.evaluate("clip") / "provenance.json"
    write_json(path, read_json(path) | {what: value})
    if what == "data":
        settings = paths.train("clip") / "params.json"
        write_json(settings, read_json(settings) | {what: value})
    with pytest.raises(UserError, match=f"runs/evaluate/clip and .*not comparable.*different {message}"):
        load_evidence(paths, CONTESTANTS)


def test_scores_of_other_weights_than_those_that_lie_there_are_refused(tmp_path):
    paths = plant(tmp_path, PARAMS)
    weights = paths.model("dense") / "model.safetensors"
    weights.write_bytes(b"trained again")
    with pytest.raises(UserError, match=r"runs/evaluate/dense: .*not those of .*runs/train/dense.*run `limoe evaluate dense`"):
        load_evidence(paths, CONTESTANTS)
    weights.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors: no such file"):
        load_evidence(paths, CONTESTANTS)


@pytest.mark.parametrize("changed", ["model.safetensors", None], ids=["trained again", "trained without train.ema"])
def test_scores_of_other_averaged_weights_are_refused(tmp_path, changed):
    paths = plant(tmp_path, PARAMS)
    plant_averaged(paths, "dense", 0.5)
    assert [bool(one.averaged) for one in load_evidence(paths, CONTESTANTS)] == [False, True, False]
    averaged = paths.averaged("dense")
    (averaged / changed).write_bytes(b"trained again") if changed else shutil.rmtree(averaged)
    with pytest.raises(UserError, match=r"runs/evaluate/dense: .*run `limoe evaluate dense`"):
        load_evidence(paths, CONTESTANTS)


def test_averaged_weights_without_scores_are_refused(tmp_path):
    paths = plant(tmp_path, PARAMS)
    plant_averaged(paths, "dense", 0.5)
    shutil.rmtree(paths.evaluate_averaged("dense"))
    with pytest.raises(UserError, match=r"runs/evaluate/dense: .*run `limoe evaluate dense`"):
        load_evidence(paths, CONTESTANTS)


def test_a_training_on_other_data_than_the_evaluations_is_refused(tmp_path):
    paths = plant(tmp_path, PARAMS)
    path = paths.train("clip") / "params.json"
    write_json(path, read_json(path) | {"data": "0" * 64})
    with pytest.raises(UserError, match=r"runs/train/clip: .*trained on another prepared set.*run `limoe train clip`"):
        load_evidence(paths, CONTESTANTS)


@pytest.mark.parametrize("key", SHARED)
def test_trainings_that_differ_in_what_all_share_are_not_compared(tmp_path, key):
    paths = plant(tmp_path, PARAMS)
    path = paths.train("dense") / "params.json"
    settings = read_json(path)
    write_json(path, settings | {"train": settings["train"] | {key: 12345}})
    with pytest.raises(UserError, match=f"not comparable: they were trained with different train.{key}"):
        load_evidence(paths, CONTESTANTS)


def test_other_items_are_not_paired(tmp_path):
    paths = plant(tmp_path / "a", PARAMS)
    other = plant(tmp_path / "b", PARAMS, pictures=100)
    (other.evaluate("dense") / "items.parquet").replace(paths.evaluate("dense") / "items.parquet")
    with pytest.raises(UserError, match="scored other items"):
        load_evidence(paths, CONTESTANTS)


def test_what_is_missing_is_named_with_the_command(tmp_path):
    with pytest.raises(UserError, match="runs/evaluate/limoe: no such folder; run `limoe evaluate limoe` first"):
        load_evidence(Paths(tmp_path), CONTESTANTS)


@pytest.mark.parametrize(
    "name, message",
    [("items.parquet", "not a Parquet file"), ("results.json", "not valid JSON"), ("provenance.json", "not valid")],
)
def test_broken_files_are_named(tmp_path, name, message):
    paths = plant(tmp_path, PARAMS)
    (paths.evaluate("dense") / name).write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=f"{name}: {message}"):
        load_evidence(paths, CONTESTANTS)


def test_a_table_whose_pages_are_damaged_is_named(tmp_path):
    paths = plant(tmp_path, PARAMS)
    path = paths.evaluate("dense") / "items.parquet"
    content = bytearray(path.read_bytes())
    content[4:400] = b"\xff" * 396
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"items\.parquet: not a Parquet file, or a damaged one"):
        load_evidence(paths, CONTESTANTS)


@pytest.mark.parametrize("name, message", [("metrics.jsonl", "not JSON lines"), ("cost.json", "not valid JSON")])
def test_broken_training_files_are_named(tmp_path, name, message):
    paths = plant(tmp_path, PARAMS)
    (paths.train("dense") / name).write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=f"{name}: {message}"):
        load_evidence(paths, CONTESTANTS)
    (paths.train("dense") / name).unlink()
    with pytest.raises(UserError, match=f"{name}: no such file"):
        load_evidence(paths, CONTESTANTS)
