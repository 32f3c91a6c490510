"""Logistic regression for few trials: shares as answers, a prior that keeps separated classes finite, and its uncertainty.

Axes: N observations, F features, Z further features that are tested.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit

from limoe.sweep.axes import Axis
from limoe.sweep.findings import Share

Array = NDArray[np.float64]
PRIOR = 5.0  # standard deviation of each coefficient beforehand, in units of log odds
INTERCEPT_PRIOR = 10.0
STEPS = 100
Z95 = 1.959963984540054


@dataclass(frozen=True)
class Logistic:
    """A fitted model. weights_F begin with the intercept; covariance_FF is Laplace's."""

    weights_F: Array
    covariance_FF: Array

    def log_odds(self, features_NF: Array) -> tuple[Array, Array]:
        """Log odds of success and their standard error, [N] each."""
        design_NF = with_intercept(features_NF)
        spread_N = np.sqrt(np.einsum("nf,fg,ng->n", design_NF, self.covariance_FF, design_NF))
        return design_NF @ self.weights_F, spread_N

    def shares(self, features_NF: Array) -> list[Share]:
        """P(success) with 95% intervals; hits and n are 0, for nothing was counted."""
        odds_N, spread_N = self.log_odds(features_NF)
        sides = (odds_N, odds_N - Z95 * spread_N, odds_N + Z95 * spread_N)
        return [Share(0.0, 0.0, *(float(side) for side in three)) for three in zip(*(expit(s) for s in sides), strict=True)]


def fit(features_NF: Array, success_N: Array, prior: float = PRIOR) -> Logistic:
    """The most probable weights for answers in 0..1, each observation counted once, by Newton's method.

    Minimises -sum(y log p + (1 - y) log(1 - p)) + sum(w^2 / (2 prior^2)), the intercept's prior being 10.
    """
    design_NF = with_intercept(features_NF)
    precision_F = np.full(design_NF.shape[1], prior**-2)
    precision_F[0] = INTERCEPT_PRIOR**-2
    weights_F = np.zeros(design_NF.shape[1])
    for _ in range(STEPS):
        p_N = expit(design_NF @ weights_F)
        gradient_F = design_NF.T @ (p_N - success_N) + precision_F * weights_F
        curvature_FF = (design_NF.T * (p_N * (1 - p_N))) @ design_NF + np.diag(precision_F)
        step_F = np.linalg.solve(curvature_FF, gradient_F)
        weights_F = weights_F - step_F * min(1.0, 4.0 / max(1e-12, float(np.abs(step_F).max())))
        if float(np.abs(step_F).max()) < 1e-9:
            break
    return Logistic(weights_F, np.linalg.inv(curvature_FF))


def score_test(features_NF: Array, tested_NZ: Array, answer_N: Array, binary: bool) -> tuple[float, int, float] | None:
    """Whether further features belong into the model: (statistic, degrees of freedom, p); None for too few observations.

    Rao's score test: with residuals r and variances v of the model without them (logistic if `binary`, else linear), and T the
    tested features without what the others explain, r'T (T' diag(v) T)^-1 T'r is chi-squared.
    """
    design_NF = with_intercept(features_NF)
    free = len(answer_N) - int(np.linalg.matrix_rank(design_NF))
    if free < max(8, len(answer_N) // 4):
        return None
    if binary:
        p_N = expit(fit(features_NF, answer_N).log_odds(features_NF)[0])
        residual_N, variance_N = answer_N - p_N, p_N * (1 - p_N)
    else:
        residual_N = answer_N - design_NF @ np.linalg.lstsq(design_NF, answer_N, rcond=None)[0]
        variance_N = np.full(len(answer_N), float(residual_N @ residual_N) / free)
    if float(variance_N.max()) <= 0:
        return None
    root_N = np.sqrt(variance_N if binary else np.ones(len(answer_N)))[:, None]
    explained_NZ = design_NF @ np.linalg.lstsq(design_NF * root_N, tested_NZ * root_N, rcond=None)[0]
    own_NZ = tested_NZ - explained_NZ
    information_ZZ = (own_NZ.T * variance_N) @ own_NZ
    df = int(np.linalg.matrix_rank(information_ZZ, tol=1e-8 * max(1.0, float(np.trace(information_ZZ)))))
    if df == 0:
        return None
    score_Z = own_NZ.T @ residual_N
    statistic = float(score_Z @ np.linalg.pinv(information_ZZ, rcond=1e-8) @ score_Z)
    return statistic, df, float(stats.chi2.sf(statistic, df))


def main_effects(axes: Sequence[Axis], points: Sequence[dict[str, Any]]) -> Array:
    """[N, F]: for each axis with an order its place z in -1..1 and z^2 - 1/3, for others a 0/1 column per choice but the first.

    A value that is absent counts as the middle of its axis.
    """
    return np.concatenate([np.zeros((len(points), 0)), *(axis_effects(axis, points) for axis in axes)], axis=1)


def axis_effects(axis: Axis, points: Sequence[dict[str, Any]]) -> Array:
    """The columns of `main_effects` for one axis."""
    units_N = np.array([axis.place(point) for point in points], dtype=float)
    if not axis.numeric:
        units_C = np.array([axis.unit(choice) for choice in (axis.choices or ())[1:]], dtype=float)  # none of one choice alone
        same_NC: Array = (units_N[:, None] == units_C).astype(float)
        return same_NC
    z_N = np.where(np.isnan(units_N), 0.0, 2 * units_N - 1)
    square_N = np.where(np.isnan(units_N), 0.0, z_N**2 - 1 / 3)
    curved = axis.choices is None or len(axis.choices) > 2
    return np.stack([z_N, square_N] if curved else [z_N], axis=1)


def products(first_NA: Array, second_NB: Array) -> Array:
    """[N, A * B]: each column of the one times each of the other."""
    both_NAB = first_NA[:, :, None] * second_NB[:, None, :]
    return both_NAB.reshape(len(first_NA), first_NA.shape[1] * second_NB.shape[1])


def with_intercept(features_NF: Array) -> Array:
    """A column of ones before the features."""
    return np.concatenate([np.ones((len(features_NF), 1)), features_NF], axis=1)


def logit(probability: float) -> float:
    """Log odds of a probability strictly between 0 and 1."""
    return math.log(probability / (1 - probability))
