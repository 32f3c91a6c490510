"""Samplers repeat themselves after any restart, cover the space as they should, and refuse what they cannot search."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from scipy.stats import qmc

from limoe.config import Params
from limoe.errors import UserError
from limoe.sweep.samplers import PRUNERS, SAMPLERS, make_pruner, make_sampler, seed_of
from limoe.sweep.space import Space

SPACE = {
    "train.lr": {"low": 1e-4, "high": 1e-2, "log": True},
    "train.weight_decay": {"low": 0.0, "high": 1.0},
    "model.moe.experts": {"choices": [4, 8, 16]},
    "model.moe.router": {"choices": ["top-k", "loss-free"]},
    "model.moe.bias_rate": {"low": 1e-4, "high": 1e-2, "log": True, "when": {"model.moe.router": ["loss-free"]}},
}
STEPPED = {"train.warmup": {"low": 0, "high": 20, "step": 10}, "model.moe.experts": {"choices": [4, 8, 16]}}

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture
def space(params: Params) -> Space:
    return Space.parse(SPACE, params, "limoe", "space")


def bowl(values: dict[str, Any]) -> float:
    return (np.log10(values["train.lr"]) + 3) ** 2 + (values.get("train.weight_decay", 0.5) - 0.25) ** 2


def begin(space: Space, name: str, seed: int, storage: Any = None) -> optuna.Study:
    sampler = make_sampler(name, space, seed)
    return optuna.create_study(storage=storage, study_name="s", sampler=sampler, load_if_exists=True)


def draw(space: Space, study: optuna.Study, count: int, value: Callable[[dict[str, Any]], float] = bowl) -> list[dict[str, Any]]:
    drawn = []
    for _ in range(count):
        trial = study.ask()
        drawn.append(space.suggest(trial))
        study.tell(trial, value(drawn[-1]))
    return drawn


@pytest.mark.parametrize("name", ["tpe", "random", "sobol", "cmaes"])
def test_a_study_opened_again_goes_on_with_the_same_points(space: Space, name: str) -> None:
    whole = draw(space, begin(space, name, 5), 24)
    storage = optuna.storages.InMemoryStorage()
    parts = [values for part in (1, 10, 2, 11) for values in draw(space, begin(space, name, 5, storage), part)]
    assert parts == whole
    assert len({tuple(values.items()) for values in whole}) == 24
    assert draw(space, begin(space, name, 6), 3) != whole[:3]


@pytest.mark.parametrize("name", ["tpe", "random", "sobol", "cmaes"])
def test_a_point_that_was_half_drawn_is_drawn_alike(space: Space, name: str) -> None:
    whole = draw(space, begin(space, name, 5), 15)
    storage = optuna.storages.InMemoryStorage()
    study = begin(space, name, 5, storage)
    draw(space, study, 14)
    trial = study.ask()
    for dimension in space.dimensions[:2]:
        dimension.suggest(trial)
    again = begin(space, name, 5, storage)
    assert space.suggest(optuna.Trial(again, trial._trial_id)) == whole[14]


def test_sobol_is_the_sequence_itself(space: Space) -> None:
    unit_ND = qmc.Sobol(5, scramble=True, seed=5).random(32)
    for point, values in zip(unit_ND, draw(space, begin(space, "sobol", 5), 32), strict=True):
        place = dict(zip(space.names, point.tolist(), strict=True))
        assert values["train.lr"] == pytest.approx(1e-4 * 100 ** place["train.lr"])
        assert values["train.weight_decay"] == pytest.approx(place["train.weight_decay"])
        assert values["model.moe.experts"] == (4, 8, 16)[int(3 * place["model.moe.experts"])]
        assert ("model.moe.bias_rate" in values) == (place["model.moe.router"] >= 0.5)


def test_sobol_is_even_where_random_is_not(space: Space) -> None:
    drawn = draw(space, begin(space, "sobol", 1), 32)
    cells = [int(16 * np.log(values["train.lr"] / 1e-4) / np.log(100)) for values in drawn]
    assert sorted(cells) == sorted([*range(16), *range(16)])


def test_a_grid_is_walked_once(params: Params) -> None:
    space = Space.parse(STEPPED, params, "limoe", "space")
    storage = optuna.storages.InMemoryStorage()
    drawn = [values for part in (4, 5) for values in draw(space, begin(space, "grid", 0, storage), part, lambda _: 0.0)]
    assert {(values["train.warmup"], values["model.moe.experts"]) for values in drawn} == {
        (warmup, experts) for warmup in (0, 10, 20) for experts in (4, 8, 16)
    }


def test_samplers_that_learn_get_nearer(space: Space) -> None:
    for name in ("tpe", "cmaes"):
        values = [bowl(point) for point in draw(space, begin(space, name, 0), 60)]
        assert np.mean(values[-20:]) < 0.5 * np.mean(values[:10]), name


def test_failed_and_pruned_trials_do_not_confuse_cmaes(space: Space) -> None:
    study = begin(space, "cmaes", 0)
    for number in range(30):
        trial = study.ask()
        values = space.suggest(trial)
        if number % 3 == 0:
            study.tell(trial, state=TrialState.FAIL if number % 2 else TrialState.PRUNED)
        else:
            study.tell(trial, bowl(values))
    assert not any("optimizer" in key for trial in study.trials for key in trial.system_attrs)  # nothing pickled


def test_concurrent_points_differ(space: Space) -> None:
    for name in ("tpe", "random", "sobol", "cmaes"):
        study = begin(space, name, 0)
        draw(space, study, 12)
        assert len({tuple(space.suggest(study.ask()).items()) for _ in range(6)}) == 6


def test_seeds_are_32_bits_and_all_their_own() -> None:
    seeds = {seed_of(seed, number, name) for seed in range(5) for number in range(50) for name in ("", "a")}
    assert len(seeds) == 500
    assert max(seeds) < 2**32


def test_two_objectives(space: Space) -> None:
    for name in ("tpe", "random", "sobol"):
        study = optuna.create_study(directions=["minimize"] * 2, sampler=make_sampler(name, space, 0, objectives=2))
        for _ in range(12):
            trial = study.ask()
            study.tell(trial, [bowl(space.suggest(trial)), 1.0])


def test_refusals(params: Params, space: Space) -> None:
    choices = Space.parse({"model.moe.experts": {"choices": [4, 8]}}, params, "limoe", "space")
    for make, said in (
        (lambda: make_sampler("grid", space, 0), "a grid needs choices, whole numbers or a step"),
        (lambda: make_sampler("cmaes", choices, 0), "choices alone it cannot search"),
        (lambda: make_sampler("cmaes", space, 0, objectives=2), "cmaes has one objective"),
        (lambda: make_sampler("sobel", space, 0), "did you mean sobol?"),
        (lambda: make_pruner("hyperbnd", 5), "did you mean hyperband?"),
        (lambda: make_pruner("median", 5, objectives=2), "the pruner must be none"),
        (lambda: make_pruner("median", 1), "reports to be 2 or more"),
    ):
        with pytest.raises(UserError) as caught:
            make()
        assert said in str(caught.value)


def test_every_name_has_a_maker(params: Params) -> None:
    space = Space.parse(STEPPED, params, "limoe", "space")
    assert all(make_sampler(name, space, 0) for name in SAMPLERS)
    assert all(make_pruner(name, 5) for name in PRUNERS)


def test_successive_halving_keeps_a_third(params: Params) -> None:
    study = optuna.create_study(pruner=make_pruner("successive-halving", 9))
    stopped = []
    for loss in (1.0, 5.0, 4.0, 6.0, 0.5, 7.0):
        trial = study.ask()
        trial.report(loss, 1)
        stopped.append(trial.should_prune())
    # asynchronous: each is compared with those before it; the best third (at least one) goes on
    assert stopped == [False, True, True, True, False, True]
