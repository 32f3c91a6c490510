"""A space says before anything runs what it cannot search, and resolves a point to the parameters of one trial."""

from __future__ import annotations

import math
from typing import Any

import optuna
import pytest

from limoe.config import Params
from limoe.errors import UserError
from limoe.sweep.dimension import Dimension
from limoe.sweep.names import readable, searchable
from limoe.sweep.ranges import parse_distribution
from limoe.sweep.space import Space
from limoe.sweep.ties import Tie, ties_of

LR = {"train.lr": {"low": 1e-4, "high": 1e-2, "log": True}}
ROUTER = {"model.moe.router": {"choices": ["top-k", "loss-free"]}}
RATE = {"low": 1e-4, "high": 1e-2, "log": True, "when": {"model.moe.router": ["loss-free"]}}


def parse(params: Params, document: Any, contestant: str = "limoe") -> Space:
    return Space.parse(document, params, contestant, "space.yaml")


def refusal(params: Params, document: Any, contestant: str = "limoe") -> str:
    with pytest.raises(UserError) as caught:
        parse(params, document, contestant)
    text = str(caught.value)
    assert "\n" not in text
    return text


def drawn(space: Space, count: int) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    return [space.suggest(study.ask()) for _ in range(count)]


@pytest.mark.parametrize(
    "name, said",
    [
        ("train.learning_rate", "there is no such setting"),
        ("train.weight_decy", "did you mean train.weight_decay?"),
        ("lr", "did you mean train.lr?"),
        ("model.moe.expert", "did you mean model.moe.experts?"),
        ("prepare.scenes.train", "belongs to a stage before the training"),
        ("balance.target_placed", "belongs to a stage before the training"),
        ("evaluate.batch", "belongs to a stage after the training, and only it opens test sets; .*did you mean train.batch?"),
        ("compare.seed", "belongs to a stage after the training"),
        ("machine.device", "belongs to this machine"),
        ("contestants.limoe.lr", "did you mean train.lr?"),
        ("train.seed", "repeats each point over seeds of its own"),
        ("train.threads", "the same share of the machine"),
        ("train.health.placed", "told to have failed"),
        ("train.ema", "measured on the weights as they are"),
        ("train.export", "measured on the weights of the last step"),
        ("train", "is a section.*such as train.batch"),
        ("model.moe.aux_weights", "is a section.*such as model.moe.aux_weights.global_image"),
        ("model.clip.text_depth", "limoe does not read it"),
        ("train.mixture.photos", "there is no such setting"),
    ],
)
def test_names_that_cannot_be_searched(params: Params, name: str, said: str) -> None:
    text = refusal(params, LR | {name: {"low": 1, "high": 2}})
    head, *rest = said.split(".*")
    assert text.startswith(f"space.yaml: {name}")
    assert head in text
    assert all(part in text for part in rest)


def test_optimisers_schedules_and_rates_of_groups_are_searched(params: Params) -> None:
    document = {
        "train.optimizer": {"choices": ["adamw", "adafactor", "muon"]},
        "train.schedule": {"choices": ["cosine", "rsqrt", "wsd"]},
        "train.cooldown": {"low": 100, "high": 400, "step": 100, "when": {"train.schedule": ["rsqrt", "wsd"]}},
        "train.lr_scale.router": {"low": 0.1, "high": 1.0, "log": True},
    }
    space = parse(params, document)
    points = [space.resolve(params, values, 0, "limoe").train for values in drawn(space, 20)]
    assert {train.optimizer for train in points} == {"adamw", "adafactor", "muon"}
    assert {train.schedule for train in points} == {"cosine", "rsqrt", "wsd"}
    assert {train.cooldown for train in points if train.schedule == "cosine"} == {params.train.cooldown}
    assert all(0.1 <= train.lr_scale.router <= 1 and train.lr_scale.experts == 1 for train in points)


@pytest.mark.parametrize(
    "contestant, name, reads",
    [("dense", "model.moe.experts", False), ("clip", "model.clip.text_depth", True), ("dense", "train.lr", True)],
)
def test_a_contestant_is_swept_over_what_it_reads(params: Params, contestant: Any, name: str, reads: bool) -> None:
    assert (name in searchable(params, contestant)) == reads
    if not reads:
        assert f"{contestant} does not read it" in refusal(params, {name: {"low": 2, "high": 4}}, contestant)


@pytest.mark.parametrize(
    "spec, said",
    [
        ({"low": 2, "high": 1}, "the range is empty: low (2) must be below high (1)"),
        ({"low": 1, "high": 1}, "the range is empty"),
        ({"low": 0, "high": 1, "log": True}, "logarithmic range must lie above 0"),
        ({"low": -1, "high": 1, "log": True}, "logarithmic range must lie above 0"),
        ({"low": 1, "high": 2, "log": True, "step": 0.5}, "log and step exclude"),
        ({"low": 1, "high": 2, "step": 0.3}, "high (2) is not reached from low (1) by steps of 0.3; 1.9 is"),
        ({"low": 1, "high": 2, "step": 0}, "step (0) must be above 0"),
        ({"low": 1, "high": 2, "step": 3}, "at most high - low"),
        ({"low": 1.5, "high": 3, "int": True}, "low (1.5) must be a whole number"),
        ({"low": 1}, "high must be a number, is None"),
        ({"low": "a", "high": 2}, "low must be a number, is 'a'"),
        ({"low": True, "high": 2}, "low must be a number"),
        ({"low": 0, "high": math.inf}, "high must be a number"),
        ({"low": 1, "high": 2, "log": "yes"}, "log must be true or false"),
        ({"choices": []}, "at least one value"),
        ({"choices": "ab"}, "at least one value"),
        ({"choices": [1, 2, 1.0]}, "choices name 1.0 twice"),
        ({"choices": ["1e-3", 0.001]}, "choices name 0.001 twice"),
        ({"choices": [[1, 2]]}, "must be a number, text"),
        ({"choices": [math.nan]}, "not a finite number"),
        ({"chioces": [1]}, "unknown key chioces; did you mean choices?"),
        ({}, "one of low and high, choices, equal, or total and over, and has none"),
        ({"total": 9}, "over must name another searched name, and None is none"),
        ({"over": "train.lr"}, "total must be a number above 0, and is None"),
        ({"total": float("inf"), "over": "train.lr"}, "total must be a number above 0, and is inf"),
        ({"total": float("nan"), "over": "train.lr"}, "total must be a number above 0, and is nan"),
        ({"total": True, "over": "train.lr"}, "total must be a number above 0, and is True"),
        ({"total": -1, "over": "train.lr"}, "total must be a number above 0, and is -1"),
        ({"total": 1, "over": "model.moe.router"}, "over must name numbers above 0, and model.moe.router may be others"),
        ({"total": 1, "over": "train.lr", "when": {"model.moe.router": ["top-k"]}}, "when does not go with total and over"),
        ({"total": 1, "equal": "train.lr"}, "and has equal and total and over"),
        ({"low": 1, "high": 2, "choices": [1]}, "and has low and high and choices"),
        ({"choices": [1], "log": True}, "log does not go with choices"),
        (3, "must be a range, choices or a tie"),
        ({"equal": "train.batch"}, "'train.batch' is none"),
        ({"low": 1, "high": 2, "when": {"train.lr": [1e-3]}}, "train.lr is a continuous range"),
        ({"low": 1, "high": 2, "when": {}}, "when must be a mapping"),
        ({"low": 1, "high": 2, "when": {"model.moe.routers": [1]}}, "did you mean model.moe.router?"),
        ({"low": 1, "high": 2, "when": {"model.moe.router": "top-k"}}, "must have a list of values"),
        ({"low": 1, "high": 2, "when": {"model.moe.router": ["uniform"]}}, "'uniform' is none of its choices: top-k, loss-free"),
    ],
)
def test_specs_that_cannot_be(params: Params, spec: Any, said: str) -> None:
    text = refusal(params, LR | ROUTER | {"train.clip_norm": spec})
    assert text.startswith("space.yaml: train.clip_norm: ")
    assert said in text


@pytest.mark.parametrize(
    "document, said",
    [
        ({}, "at least one name"),
        ([], "at least one name"),
        ({"train.lr": {"low": 0, "high": 0.01}}, "train.lr = 0.0 is refused"),
        ({"train.beta1": {"low": 0.5, "high": 1}}, "train.beta1 = 1.0 is refused"),
        ({"model.moe.priority": {"choices": ["bpr", "bpt"]}}, "did you mean bpr?"),
        ({"model.moe.experts": {"low": 2.5, "high": 4}}, "low (2.5) must be a whole number"),
        ({"model.moe.experts": {"low": 2, "high": 4, "int": False}}, "int: false does not fit"),
        ({"train.batch": {"choices": [256, 300]}}, "must be a multiple of model.moe.group_pairs (256)"),
        ({"train.warmup": {"low": 0, "high": 5000}}, "must fit into steps (1700)"),
    ],
)
def test_values_that_the_parameters_refuse(params: Params, document: Any, said: str) -> None:
    assert said in refusal(params, document)


def test_unknown_contestant(params: Params) -> None:
    assert "limoe, dense, clip" in refusal(params, LR, "sparse")


def test_conditions_in_a_circle(params: Params) -> None:
    text = refusal(
        params,
        {
            "train.batch": {"choices": [256, 512], "when": {"model.moe.k": [1]}},
            "model.moe.k": {"choices": [1, 2], "when": {"train.batch": [256]}},
        },
    )
    assert "train.batch: its condition depends on model.moe.k" in text


def test_the_space_of_params_yaml(params: Params) -> None:
    space = parse(params, params.sweep)
    assert len(space.names) == 6
    assert space.ties == {"model.moe.group_pairs": Tie("train.batch")}
    for values in drawn(space, 50):
        resolved = space.resolve(params, values, 7, "limoe")
        assert resolved.model.moe.group_pairs == resolved.train.batch == values["train.batch"]
        assert resolved.train.lr == values["train.lr"]
        assert 5e-4 <= resolved.train.lr <= 2e-2
        assert resolved.train.seed == 7


def test_a_tied_total_is_shared_out(params: Params) -> None:
    tied = {"train.batch": {"choices": [64, 128, 192]}, "train.steps": {"total": 19_200, "over": "train.batch"}}
    space = parse(params, tied | {"model.moe.group_pairs": {"equal": "train.batch"}})
    assert space.names == ["train.batch"]
    trains = [space.resolve(params, {"train.batch": batch}, 0, "limoe").train for batch in (64, 128, 192)]
    assert [(train.batch, train.steps) for train in trains] == [(64, 300), (128, 150), (192, 100)]
    assert {train.batch * train.steps for train in trains} == {19_200}
    assert ties_of(space.document) == space.ties
    too_few = {**tied, "train.steps": {"total": 6_400, "over": "train.batch"}}  # 33 steps of 192, and a warm-up of 100
    assert "warmup (100)" in refusal(params, too_few | {"model.moe.group_pairs": {"equal": "train.batch"}})


def test_a_baseline_is_swept_over_what_it_reads_of_the_space_of_params_yaml(params: Params) -> None:
    space = Space.parse(readable(params.sweep, params, "dense"), params, "dense", "space.yaml")
    assert (space.names, space.ties) == (["train.lr", "train.batch"], {})
    assert space.resolve(params, {"train.lr": 1e-3, "train.batch": 512}, 0, "dense").train.batch == 512


def test_what_no_contestant_reads_is_not_dropped_but_refused(params: Params) -> None:
    wrong = LR | {"model.moe.expertss": {"low": 2, "high": 4}}
    assert "model.moe.expertss" in readable(wrong, params, "clip")
    assert "there is no such setting" in refusal(params, wrong, "clip")


def test_the_document_parses_to_the_same_space(params: Params) -> None:
    written = {
        "train.warmup": {"low": "0", "high": 1e2, "step": 50},
        "train.lr": {"low": "1e-4", "high": "1e-2", "log": True},
        "model.moe.bias_rate": RATE,
        "model.moe.group_pairs": {"equal": "train.batch"},
        "train.batch": {"choices": [128.0, 256]},
    } | ROUTER
    space = parse(params, written)
    assert space.document["train.warmup"] == {"low": 0, "high": 100, "step": 50, "int": True}
    assert space.document["train.batch"] == {"choices": [128, 256]}
    assert space.document["train.lr"] == {"low": 1e-4, "high": 1e-2, "log": True}
    again = parse(params, space.document)
    assert again.document == space.document
    assert set(again.names) == set(space.names)


def test_a_condition_searches_a_name_only_where_it_holds(params: Params) -> None:
    space = parse(params, {"model.moe.bias_rate": RATE} | ROUTER)
    assert space.names == ["model.moe.router", "model.moe.bias_rate"]
    assert space.conditional
    seen = drawn(space, 40)
    assert {values["model.moe.router"] for values in seen} == {"top-k", "loss-free"}
    for values in seen:
        assert ("model.moe.bias_rate" in values) == (values["model.moe.router"] == "loss-free")
        wanted = values.get("model.moe.bias_rate", params.model.moe.bias_rate)
        assert space.resolve(params, values, 0, "limoe").model.moe.bias_rate == wanted


def test_a_value_may_need_its_condition_or_a_neighbour(params: Params) -> None:
    parse(params, {"model.moe.k": {"choices": [1, 32]}, "model.moe.experts": {"choices": [16, 64]}})
    document = {
        "model.moe.renormalise": {"choices": [False, True], "when": {"model.moe.k": [2]}},
        "model.moe.k": {"choices": [1, 2]},
    }
    parse(params, document)
    text = refusal(params, {"model.moe.renormalise": {"choices": [False, True]}})
    assert "model.moe.renormalise = True is refused" in text


def test_points_from_tables_are_put_right(params: Params) -> None:
    space = parse(params, {"model.moe.experts": {"choices": [8, 16]}, "train.warmup": {"low": 0, "high": 100}} | LR)
    values = space.normal({"train.warmup": 50.0, "model.moe.experts": 16.0, "train.lr": 0.001})
    assert values == {"model.moe.experts": 16, "train.warmup": 50, "train.lr": 0.001}
    assert [type(value) for value in values.values()] == [int, int, float]
    for wrong, said in (
        ({"train.warmup": 101}, "outside its range"),
        ({"train.warmup": 1.5}, "outside its range"),
        ({"model.moe.experts": 12}, "none of its choices"),
        ({"model.moe.expert": 12}, "is not searched; did you mean model.moe.experts?"),
    ):
        with pytest.raises(UserError, match=r"space\.yaml") as caught:
            space.normal(wrong)
        assert said in str(caught.value)


def test_a_trial_trains_with_exactly_its_settings(params: Params) -> None:
    document = params.model_dump(mode="json")
    document["contestants"] = {"limoe": {}, "dense": {"lr": 0.5, "weight_decay": 0.25}, "clip": {"warmup": 1600}}
    base = Params.parse(document, "test")
    space = Space.parse({"train.lr": {"low": 0.1, "high": 0.2}, "train.batch": {"choices": [8, 24]}}, base, "dense", "space")
    resolved = space.resolve(base, {"train.lr": 0.15, "train.batch": 24}, 3, "dense")
    assert resolved.contestants == {"limoe": {}, "dense": {}, "clip": {}}
    assert resolved.train_for("dense") == resolved.train
    assert (resolved.train.lr, resolved.train.weight_decay, resolved.train.batch) == (0.15, 0.25, 24)
    assert resolved.train.warmup == base.train.warmup


def test_a_point_that_does_not_fit_is_named(params: Params) -> None:
    space = parse(params, {"model.moe.k": {"choices": [1, 32]}, "model.moe.experts": {"choices": [16, 64]}})
    with pytest.raises(UserError, match=r"model.moe.k = 32.*must not exceed experts \(16\)"):
        space.resolve(params, {"model.moe.k": 32, "model.moe.experts": 16}, 0, "limoe")


def test_a_grid_lists_every_value(params: Params) -> None:
    space = parse(
        params, {"train.warmup": {"low": 0, "high": 100, "step": 50}, "train.clip_norm": {"low": 0.1, "high": 0.4, "step": 0.1}}
    )
    assert space.grid() == {"train.warmup": [0, 50, 100], "train.clip_norm": [0.1, 0.2, 0.3, 0.4]}
    with pytest.raises(UserError, match=r"train\.lr is a continuous range"):
        parse(params, LR).grid()


@pytest.mark.parametrize(
    "spec, whole, expected",
    [
        ({"low": 0.0, "high": 10.0}, False, [0.0, 2.5, 5.0, 9.999]),
        ({"low": 1.0, "high": 100.0, "log": True}, False, [1.0, math.sqrt(10), 10.0, 10 ** (2 * 0.9999)]),
        ({"low": 1, "high": 4}, True, [1, 2, 3, 4]),
        ({"low": 0, "high": 3, "step": 1.5}, False, [0.0, 0.0, 1.5, 3.0]),
        ({"choices": ["a", "b"]}, False, ["a", "a", "b", "b"]),
    ],
)
def test_places_in_the_unit_interval(spec: Any, whole: bool, expected: list[Any]) -> None:
    dimension = Dimension("x", parse_distribution(spec, whole))
    values = [dimension.at(unit) for unit in (0.0, 0.25, 0.5, 0.9999)]
    assert values == pytest.approx(expected) if not isinstance(expected[0], str) else values == expected
    for value in values:
        assert dimension.at(dimension.unit(value)) == pytest.approx(value) if not isinstance(value, str) else True


def test_whole_numbers_on_a_log_scale_get_their_share() -> None:
    dimension = Dimension("x", parse_distribution({"low": 1, "high": 8, "log": True}, True))
    counts = [dimension.at(place / 10_000) for place in range(10_000)]
    for value in range(1, 9):
        share = math.log((value + 0.5) / (value - 0.5)) / math.log(8.5 / 0.5)
        assert counts.count(value) / 10_000 == pytest.approx(share, abs=2e-4)
        assert dimension.at(dimension.unit(value)) == value
