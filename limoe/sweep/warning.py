"""Early warning: how well health at 10, 20 and 30% of the budget tells the trainings that will fail.

Figures: limoe.sweep.early. A failure is any trial without success, one that merely falls behind included. What failed before the
moment is no prediction and is left out. Recipes, not trials, are halved, so that no recipe is on both sides. A rule of several
figures fits its own half too well for a threshold to be read off there: it is read off scores that each fifth of that half gets
from a model of the other four.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from sklearn.metrics import roc_auc_score, roc_curve

from limoe.sweep.early import EARLY
from limoe.sweep.findings import Early, Predictor
from limoe.sweep.logistic import Z95, Array, fit
from limoe.sweep.rows import Row
from limoe.sweep.success import label, share

COMBINED = "combined"
FALSE_ALARMS = 0.05
FOLDS = 5
FEWEST = 5  # trials of either class, in either half
EDGE = 1e-9
PRIOR = 1.0  # standard deviation of a standardised figure's coefficient: many figures, few failures
LOGARITHMS = ("gradient_norm", "text_logits_max", "image_logits_max")
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Watched:
    """Trials still running without alarm at a moment. figures [N, F]; fails, point, first (half), fold: [N]."""

    names: list[str]
    figures_NF: Array
    fails_N: Flags
    point_N: NDArray[np.int64]
    first_N: Flags
    fold_N: NDArray[np.int64]


def warn_early(rows: Sequence[Row], limit: float | None) -> list[Early]:
    """Early warning at each moment."""
    return [_at(percent, rows, limit) for percent in EARLY]


def dealt(points: Sequence[int], fails: Sequence[bool]) -> dict[int, int]:
    """A place for each point, from 0: by the share of its trials that fail, shuffled among equals by a fixed seed. Whoever takes
    every n-th place gets his share of failures."""
    share_of = {point: np.mean([f for p, f in zip(points, fails, strict=True) if p == point]) for point in sorted(set(points))}
    luck = dict(zip(share_of, np.random.default_rng(0).permutation(len(share_of)), strict=True))
    ordered = sorted(share_of, key=lambda point: (share_of[point], luck[point]))
    return {point: place for place, point in enumerate(ordered)}


def halves(points: Sequence[int], fails: Sequence[bool]) -> dict[int, bool]:
    """Whether each point is in the half that thresholds are fitted on."""
    return {point: place % 2 == 0 for point, place in dealt(points, fails).items()}


def interval(auc: float, positives: float, negatives: float) -> tuple[float, float]:
    """95% interval of an area under ROC (Newcombe 2006, method 5): the areas A with |auc - A| <= 1.96 sd(A), where

    sd(A)^2 = A (1 - A) (1 + N (1 - A) / (2 - A) + N A / (1 + A)) / (positives negatives),  N = (positives + negatives) / 2 - 1.
    """
    many = (positives + negatives) / 2 - 1

    def beyond(area: float) -> float:
        spread = area * (1 - area) * (1 + many * (1 - area) / (2 - area) + many * area / (1 + area))
        return abs(auc - area) - Z95 * math.sqrt(max(0.0, spread) / (positives * negatives))

    inside = min(max(auc, EDGE), 1 - EDGE)  # at 0 and 1 the spread vanishes
    low = 0.0 if beyond(EDGE) <= 0 else float(brentq(beyond, EDGE, inside))
    high = 1.0 if beyond(1 - EDGE) <= 0 else float(brentq(beyond, inside, 1 - EDGE))
    return low, high


def threshold(scores_N: Array, fails_N: Flags) -> float:
    """The lowest bound that at most 5% of the successes lie above."""
    successes = np.sort(scores_N[~fails_N])[::-1]
    return float(successes[math.floor(FALSE_ALARMS * len(successes))])


def _at(percent: int, rows: Sequence[Row], limit: float | None) -> Early:
    labelled = [(row, success) for row in rows if (success := label(row, limit)) is not None]
    over = sum(not success and _is_over(row, percent) for row, success in labelled)
    prefix = f"{percent}/"
    kept = [(row, not success) for row, success in labelled if not _is_over(row, percent) and _has(row, prefix)]
    failing = sum(fails for _, fails in kept)
    base = (percent / 100, len(kept) - failing, failing, over)
    few = min(failing, len(kept) - failing)
    if few < FEWEST:
        which = "failures" if failing == few else "successes"
        return Early(*base, [], f"too few {which} to tell: {few}, and {FEWEST} are needed")
    watched = _watched(kept, prefix)
    every = list(range(len(watched.names)))
    combined = [_predictor(watched, every, COMBINED)] if len(every) > 1 else []
    return Early(*base, [*(_predictor(watched, [i], watched.names[i]) for i in every), *combined], None)


def _is_over(row: Row, percent: int) -> bool:
    """Whether the trial has failed by then: it was stopped, or an alarm was raised."""
    moment = row.steps_planned * percent / 100
    return row.kind != "ok" and min(row.step, row.step if row.alarm_step is None else row.alarm_step) <= moment


def _has(row: Row, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in row.early)


def _watched(kept: Sequence[tuple[Row, bool]], prefix: str) -> Watched:
    """The figures that every trial has."""
    shared = set.intersection(*({name for name in row.early if name.startswith(prefix)} for row, _ in kept))
    names = sorted(name.removeprefix(prefix) for name in shared)
    figures = [[_scaled(name, row.early[prefix + name]) for name in names] for row, _ in kept]
    points, fails = [row.point for row, _ in kept], [failing for _, failing in kept]
    first, place = halves(points, fails), dealt(points, fails)
    halved, fold_N = np.array([first[point] for point in points]), np.array([place[point] // 2 % FOLDS for point in points])
    return Watched(names, np.array(figures).reshape(len(kept), -1), np.array(fails), np.array(points), halved, fold_N)


def _scaled(name: str, value: float) -> float:
    return math.log(max(value, 1e-12)) if name in LOGARITHMS else value


def _predictor(watched: Watched, columns: list[int], name: str) -> Predictor:
    fit_N, test_N, fails_N = watched.first_N, ~watched.first_N, watched.fails_N
    few = min(int((fails_N[half] == side).sum()) for half in (fit_N, test_N) for side in (True, False))
    reason = f"too few in a half of the recipes: {few} of one class, and {FEWEST} are needed" if few < FEWEST else None
    if reason is not None:
        return Predictor(name, None, None, None, None, None, None, [], reason)
    scores_N = _scores(watched.figures_NF[:, columns], fails_N, fit_N)
    failing = None if name == COMBINED else _direction(watched.figures_NF[:, columns[0]], scores_N)
    auc = float(roc_auc_score(fails_N[test_N], scores_N[test_N]))
    low, high = interval(auc, *_independent(watched, test_N))
    alarm_N = scores_N > threshold(_held_out(watched, columns)[fit_N], fails_N[fit_N])
    caught = share(float((alarm_N & fails_N & test_N).sum()), float((fails_N & test_N).sum()))
    false = share(float((alarm_N & ~fails_N & test_N).sum()), float((~fails_N & test_N).sum()))
    false_rate, caught_rate, _ = roc_curve(fails_N[test_N], scores_N[test_N])
    roc = [(float(x), float(y)) for x, y in zip(false_rate, caught_rate, strict=True)]
    return Predictor(name, failing, auc, low, high, caught, false, roc, None)


def _direction(figure_N: Array, scores_N: Array) -> str:
    """Whether the rule takes high or low values for a sign of failure."""
    return "high" if scores_N[figure_N.argmax()] >= scores_N[figure_N.argmin()] else "low"


def _scores(figures_NF: Array, fails_N: Flags, fit_N: Flags) -> Array:
    """Log odds of failing by a logistic model fitted on one half, for all trials."""
    middle_F, spread_F = figures_NF[fit_N].mean(0), figures_NF[fit_N].std(0)
    scaled_NF = (figures_NF - middle_F) / np.where(spread_F > 1e-12, spread_F, 1.0)
    return fit(scaled_NF[fit_N], fails_N[fit_N].astype(float), PRIOR).log_odds(scaled_NF)[0]


def _held_out(watched: Watched, columns: list[int]) -> Array:
    """[N]: scores of the first half, each fold's by a model of the other folds; NaN for the second half."""
    scores_N = np.full(len(watched.fails_N), np.nan)
    for fold in range(FOLDS):
        own_N = watched.first_N & (watched.fold_N == fold)
        rest_N = watched.first_N & ~own_N
        scores_N[own_N] = _scores(watched.figures_NF[:, columns], watched.fails_N, rest_N)[own_N]
    return scores_N


def _independent(watched: Watched, part_N: Flags) -> tuple[int, int]:
    """Recipes with failures and with successes: the seeds of one recipe are not independent."""
    fails_N, point_N = watched.fails_N[part_N], watched.point_N[part_N]
    return len(set(point_N[fails_N].tolist())), len(set(point_N[~fails_N].tolist()))
