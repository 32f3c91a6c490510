"""Who is compared, at what budget, over which seeds, and what the report says of contestants that are not trained here."""

from __future__ import annotations

import doctest
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from evalkit import tiny_params, with_others
from reportkit import SAMPLES, plant, plant_further, plant_other
from scipy.stats import ttest_rel

from limoe.config import Params
from limoe.errors import UserError
from limoe.evals import seeds
from limoe.evals.models import openclip
from limoe.files import read_json, write_json
from limoe.model import costs
from limoe.paths import Paths
from limoe.report import budget, named, names, tables
from limoe.report.budget import Budget, frontier
from limoe.report.lineup import Lineup, load_lineup
from limoe.report.over_seeds import seed_duels, seeds_section
from limoe.report.pareto import pareto
from limoe.report.scores import duels, measure

PARAMS = tiny_params()
OURS = Budget(4e6, 1e6, 2.1e8, 1000, "d", 60)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Paths, Params]:
    return plant_further(plant(tmp_path_factory.mktemp("planted"), PARAMS), PARAMS)


@pytest.fixture(scope="module")
def lineup(planted: tuple[Paths, Params]) -> Lineup:
    paths, params = planted
    return load_lineup(paths, params.compare)


def test_everyone_has_a_place(lineup: Lineup) -> None:
    assert [one.name for one in lineup.evidence] == ["limoe", "dense", "clip", "big", "odd"]
    assert [one.name for one in lineup.seeds["dense"]] == ["dense", "dense-1", "dense-2"]
    assert [len(trainings) for trainings in lineup.seeds.values()] == [3, 3, 1, 1, 1]
    assert lineup.absent == {"far": "its weights could not be fetched"}
    assert [one.budget.tuning for one in lineup.evidence] == [60, None, None, None, None]


def test_the_training_costs_three_forward_passes_a_pair() -> None:
    assert budget.TRAINING_PER_FORWARD == costs.TRAINING_PER_FORWARD
    assert OURS.training == 3 * 2.1e8 * 1000
    assert replace(OURS, samples=None).training is None


@pytest.mark.parametrize(
    "change,reason",
    [
        ({"forward": 2.0e8, "params_total": 1e6, "tuning": None}, ""),
        ({"forward": 3.15e8}, "1.5 × the FLOPs"),
        ({"samples": 40_000}, "40 × the pairs"),
        ({"data": "e", "samples": 2000}, "other training data, 2 × the FLOPs"),
        ({"data": None}, "unknown training data, 1 × the FLOPs"),
        ({"samples": None}, "what its training cost is unknown"),
    ],
)
def test_when_two_budgets_are_equal(change: dict[str, Any], reason: str) -> None:
    assert OURS.difference(replace(OURS, **change)) == reason


def test_the_frontier_against_every_pair() -> None:
    costs_, scores = [3.0, 1.0, 2.0, 2.0, 5.0, 1.0], [0.5, 0.1, 0.6, 0.6, 0.6, 0.3]
    places = range(6)

    def beaten(a: int) -> bool:
        return any(
            costs_[b] <= costs_[a] and scores[b] >= scores[a] and (costs_[b] < costs_[a] or scores[b] > scores[a]) for b in places
        )

    assert set(frontier(costs_, scores)) == {a for a in places if not beaten(a)} == {2, 3, 5}
    assert frontier(costs_, scores) == [5, 2, 3]


def test_a_higher_score_at_another_budget_makes_no_model_better(planted: tuple[Paths, Params], lineup: Lineup) -> None:
    found = {(one.baseline, one.set, one.metric): one for one in duels(lineup.evidence, planted[1].compare)}
    big = found["big", "unseen-style", "top1"]
    assert (big.unequal, big.verdict, big.paired.verdict) == ("unknown training data, 39 × the FLOPs", "lower score", "worse")
    assert found["odd", "unseen-style", "top1"].unequal == "what its training cost is unknown"
    assert found["clip", "unseen-style", "top1"].unequal == ""


def test_costs_that_nobody_knows_are_unknown(lineup: Lineup) -> None:
    rows = {(row[0].text, row[0].note): [cell.text for cell in row[1:]] for row in tables.cost_table(lineup.evidence).rows}
    assert rows["Pairs seen", "in training"] == ["154\xa0k", "154\xa0k", "154\xa0k", "6.14\xa0M", "unknown"]
    assert rows["FLOPs of the training", "three forward passes a pair"][-1] == "unknown"
    assert rows["Tuning", "trials"] == ["60", *["unknown"] * 4]
    assert rows["Training data", "SHA-256"] == [*[f"`{'d' * 16}`"] * 3, "unknown", "unknown"]


def test_seeds_are_paired_by_their_number_and_adjusted_as_one_family(lineup: Lineup) -> None:
    found = {(one.set, one.metric): one for one in seed_duels(lineup.seeds)}
    assert {one.baseline for one in found.values()} == {"dense"}
    main = found["unseen-style", "top1"]
    truth = ttest_rel([0.30, 0.32, 0.34], [0.30, 0.22, 0.24])
    assert (main.test.n, main.test.p) == (3, pytest.approx(truth.pvalue))
    assert main.p_holm == pytest.approx(min(1.0, len(found) * truth.pvalue))
    (section,) = seeds_section(lineup.seeds)
    assert section.blocks[0].rows[0][1].text == "32.0%"  # type: ignore[union-attr]
    assert section.blocks[0].rows[0][1].note == "sd 2.0, 3 seeds"  # type: ignore[union-attr]
    assert seeds_section({name: trainings[:1] for name, trainings in lineup.seeds.items()}) == []


def further(tmp_path: Path, about: dict[str, Any], **spec: Any) -> tuple[Paths, Params]:
    paths = plant(tmp_path, PARAMS)
    plant_other(paths, "again", 0.3, like="limoe", **about)
    return paths, with_others(PARAMS, models={"again": {"path": "m", **spec}})


@pytest.mark.parametrize(
    "about,sentence",
    [
        ({"seed": 0}, "seed 0 is there already"),
        ({"seed": None}, "its seed is unknown"),
        ({"seed": 1, "samples": 2 * SAMPLES}, "no other seed of limoe: 2 × the pairs"),
        ({"seed": 1, "params_total": 7}, "no other seed of limoe: another number of parameters"),
    ],
)
def test_what_is_no_other_seed_is_refused(about: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    paths, params = further(tmp_path, about, seed_of="limoe")
    with pytest.raises(UserError, match=sentence):
        load_lineup(paths, params.compare)


def test_one_that_was_scored_otherwise_is_refused(tmp_path: Path) -> None:
    paths, params = further(tmp_path, {})
    source = paths.evaluate("again") / "provenance.json"
    write_json(source, read_json(source) | {"data": "e" * 64})
    with pytest.raises(UserError, match="not comparable: they were scored with different prepared sets"):
        load_lineup(paths, params.compare)
    missing = with_others(PARAMS, models={"never": {"path": "m"}})
    with pytest.raises(UserError, match="run `limoe evaluate never` first"):
        load_lineup(paths, missing.compare)


def test_every_contestant_is_a_point_of_one_look_and_unknown_costs_are_missing(planted: tuple[Paths, Params]) -> None:
    paths, params = planted
    evidence = load_lineup(paths, params.compare).evidence
    forward, training = pareto(measure(evidence, params.compare, 15), evidence, [("unseen-style", "top1")])[0].figures
    points = [{trace["name"]: trace for trace in figure.data if trace["mode"] == "markers"} for figure in (forward, training)]
    assert list(points[0]) == ["LIMoE", "Dense tower", "CLIP", "big", "odd"]
    assert list(points[1]) == ["LIMoE", "Dense tower", "CLIP", "big"]
    assert points[0]["big"]["x"] == [2.05e8]
    assert points[1]["big"]["x"] == [3 * 2.05e8 * 40 * SAMPLES]
    assert points[0]["big"]["y"] == [60.0]
    assert all(points[1][name]["marker"] == points[0][name]["marker"] for name in points[1])
    assert len({(mark["marker"]["color"], mark["marker"]["symbol"]) for mark in points[0].values()}) == 5
    assert training.data[0]["name"] == "frontier"
    assert training.data[0]["x"] == [3 * flops * SAMPLES for flops in (2.0e8, 2.05e8 * 40)]


@pytest.mark.parametrize("module", [budget, named, names, openclip, seeds, tables], ids=lambda module: module.__name__)
def test_the_examples_are_true(module: ModuleType) -> None:
    found = doctest.testmod(module)
    assert (found.failed, found.attempted > 0) == (0, True)
