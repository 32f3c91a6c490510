"""Who chooses the points, and who stops trials early.

Every sampler here is a function of (seed, number of the trial, finished trials): nothing lives in the process, so a study that is
killed and opened again goes on with the points that it would have drawn, and no state is pickled into the storage (as Optuna's
own CMA-ES does). Sobol points are the sequence's first ones whatever their order of finishing, and conditions leave a coordinate
unused, where Optuna's QMC sampler draws its first point and all conditional names at random.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, GridSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from limoe.errors import UserError, did_you_mean
from limoe.sweep.dimension import Dimension
from limoe.sweep.space import Space

SAMPLERS = ("tpe", "random", "sobol", "grid", "cmaes")
PRUNERS = ("none", "successive-halving", "hyperband", "median")
REDUCTION = 3  # of three trials at a rung, one goes on
MEDIAN_STARTUP = 5  # finished trials before the median prunes
FIRST_SIGMA = 1 / 6  # CMA-ES: first step size in units of the range, from its middle (Optuna's)


def make_sampler(name: str, space: Space, seed: int, objectives: int = 1) -> BaseSampler:
    """The sampler of this name; UserError for an unknown one and for a space that it cannot search."""
    if name == "grid":
        grid = space.grid()
        return Repeatable(lambda _: GridSampler(grid, seed), seed)
    if name == "cmaes":
        if objectives > 1:
            raise UserError("the sampler cmaes has one objective; with several use tpe, random, sobol or grid")
        return CmaEs(space, seed)
    if name == "sobol":
        return Sobol(space, seed)
    makers: dict[str, Callable[[int], BaseSampler]] = {"tpe": _tpe, "random": RandomSampler}
    if name not in makers:
        raise UserError(_unknown("sampler", name, SAMPLERS))
    return Repeatable(makers[name], seed)


def make_pruner(name: str, reports: int, objectives: int = 1) -> BasePruner:
    """The pruner of this name; its unit of time is a report, of which a trial makes `reports`. UserError if it cannot work."""
    makers: dict[str, Callable[[], BasePruner]] = {
        "none": NopPruner,
        "successive-halving": partial(SuccessiveHalvingPruner, min_resource=1, reduction_factor=REDUCTION),
        "hyperband": partial(HyperbandPruner, min_resource=1, max_resource=reports, reduction_factor=REDUCTION),
        "median": partial(MedianPruner, n_startup_trials=MEDIAN_STARTUP),
    }
    if name not in makers:
        raise UserError(_unknown("pruner", name, PRUNERS))
    if name != "none" and objectives > 1:
        raise UserError(f"the pruner {name} has one objective to judge by: with several objectives the pruner must be none")
    if name != "none" and reports < 2:
        raise UserError(
            f"the pruner {name} needs reports to be 2 or more: a trial that is measured at its end alone is not pruned"
        )
    return makers[name]()


class Repeatable(BaseSampler):
    """Optuna's sampler `make(seed)`, made anew for each question, with a seed of the study's, the trial's number and the name."""

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self._make = make
        self._seed = seed

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """What the sampler notes before a trial is drawn (the grid: which of its points)."""
        self._at(trial).before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The names that are drawn together."""
        space: dict[str, BaseDistribution] = self._at(trial).infer_relative_search_space(study, trial)
        return space

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """Their values."""
        values: dict[str, Any] = self._at(trial).sample_relative(study, trial, search_space)
        return values

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        """The value of a name that is drawn alone."""
        return self._at(trial, param_name).sample_independent(study, trial, param_name, param_distribution)

    def _at(self, trial: FrozenTrial, name: str = "") -> BaseSampler:
        return self._make(seed_of(self._seed, trial.number, name))


class Sobol(Repeatable):
    """Point n of a scrambled Sobol sequence for trial n, with a coordinate for each name of the space."""

    def __init__(self, space: Space, seed: int) -> None:
        super().__init__(RandomSampler, seed)
        self._dimensions = space.dimensions

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All names."""
        del study, trial
        return {one.name: one.distribution for one in self._dimensions}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """The sequence's point with the trial's number."""
        del study, search_space
        from scipy.stats import qmc  # a second to import

        engine = qmc.Sobol(len(self._dimensions), scramble=True, seed=self._seed)
        if trial.number:
            engine.fast_forward(trial.number)
        return {one.name: one.at(unit) for one, unit in zip(self._dimensions, engine.random(1)[0].tolist(), strict=True)}


class CmaEs(Repeatable):
    """CMA-ES over the unit cube of the numeric names without conditions; the others are drawn at random.

    A generation is the next so many finished trials, in the order of their numbers; the distribution is computed from all of them
    at each question. Pruned and failed trials teach it nothing.
    """

    def __init__(self, space: Space, seed: int) -> None:
        super().__init__(RandomSampler, seed)
        self._dimensions = [one for one in space.dimensions if _numeric(one)]
        if not self._dimensions:
            raise UserError("the sampler cmaes needs a range without conditions in the space; choices alone it cannot search")

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The numeric names without conditions."""
        del study, trial
        return {one.name: one.distribution for one in self._dimensions}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """A draw from the distribution that the finished generations have led to."""
        del search_space
        from cmaes import CMA  # likewise: it brings scipy.stats

        width = len(self._dimensions)
        bounds = np.tile([0.0, 1.0], (width, 1))
        search = CMA(np.full(width, 0.5), FIRST_SIGMA, bounds, seed=seed_of(self._seed, trial.number, ""))
        told = [
            (np.array([one.unit(past.params[one.name]) for one in self._dimensions]), past.values[0])
            for past in sorted(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)), key=lambda past: past.number)
        ]
        size = search.population_size
        for generation in range(len(told) // size):
            search.tell(told[generation * size : (generation + 1) * size])
        return {one.name: one.at(float(unit)) for one, unit in zip(self._dimensions, search.ask(), strict=True)}


def seed_of(seed: int, number: int, name: str) -> int:
    """32 bits for one question of one trial, spread so that neighbouring numbers have nothing in common."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}/{name}".encode()).digest()[:4], "big")


def _tpe(seed: int) -> BaseSampler:
    return TPESampler(seed=seed)  # counts running trials as bad ones (constant liar), so that concurrent points keep apart


def _numeric(dimension: Dimension) -> bool:
    return not dimension.when and "choices" not in dimension.document


def _unknown(what: str, name: str, known: tuple[str, ...]) -> str:
    return f"{what} {name!r} is not allowed: {', '.join(known)} are{did_you_mean(name, known, cutoff=0.4)}"
