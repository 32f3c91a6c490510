"""What a sweep says, as plain values: frozen, JSON-able, no plots and no arithmetic.

Everywhere: probabilities and shares lie in 0..1, `lower` and `upper` bound a 95% interval, losses are in nats (lower is better),
`n` counts points (recipes) unless it says trials, and None stands for what the trials cannot answer.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Share:
    """`hits` of `n` (both may be effective numbers), the probability and its interval; None, 0 and 1 where n is 0."""

    hits: float
    n: float
    probability: float | None
    lower: float
    upper: float


@dataclass(frozen=True)
class AxisFacts:
    """A searched parameter: a range (low, high, log, integer) or choices; `numeric` choices lie in ascending order."""

    name: str
    low: float | None
    high: float | None
    log: bool
    integer: bool
    choices: list[Any] | None
    numeric: bool
    conditional: bool


@dataclass(frozen=True)
class Counts:
    """Trials by what became of them. `excluded` (killed, error) and `pruned` (censored) have no label; trials = all of them.

    `recipes`: points that succeed, each counted by the share of its seeds: promising ones have more, and must not count more.
    """

    trials: int
    points: int
    labelled: int
    successes: int
    recipes: Share
    pruned: int
    excluded: int
    by_kind: dict[str, int]


@dataclass(frozen=True)
class Reference:
    """The loss that success is measured against: `loss` (mean over `seeds` seeds of `values`); success is at most `limit`."""

    loss: float
    limit: float
    values: dict[str, Any]
    seeds: int


@dataclass(frozen=True)
class Bin:
    """A choice, or a stretch low..high of a range, and the success of the points in it."""

    choice: Any
    low: float | None
    high: float | None
    share: Share


@dataclass(frozen=True)
class Sample:
    """A place on a smooth curve: value `x` of the parameter, P(success) there and how many points it effectively rests on."""

    x: float
    share: Share


@dataclass(frozen=True)
class Curve:
    """P(success) by one parameter, over the others as they were tried: `bins` always, `smooth` for ranges only."""

    name: str
    bins: list[Bin]
    smooth: list[Sample]


@dataclass(frozen=True)
class Pair:
    """P(success) by two parameters: `cells[i][j]` is bin i of `first` and bin j of `second`; the bins' shares are the margins."""

    first: str
    second: str
    first_bins: list[Bin]
    second_bins: list[Bin]
    cells: list[list[Share]]


@dataclass(frozen=True)
class Interaction:
    """Evidence that two parameters act together on `target` (`quality`, `failure`): chi-squared with `df`, p, p after Holm."""

    first: str
    second: str
    target: str
    statistic: float
    df: int
    p: float
    p_holm: float


@dataclass(frozen=True)
class Importance:
    """Shares of one target's variance (fANOVA) and of what tells the best points (PED-ANOVA), by parameter; each sums to 1.

    `explained`: out-of-bag R^2 of the forest: near or below 0 the shares mean nothing. `reason` says why there are none.
    """

    target: str
    n: int
    fanova: dict[str, float]
    ped_anova: dict[str, float]
    explained: float | None
    reason: str | None


@dataclass(frozen=True)
class Failure:
    """A trial that did not succeed: `kind` as its outcome, or `behind` (finished without alarm, its loss above the limit)."""

    point: int
    seed: int
    values: dict[str, Any]
    kind: str
    modality: str | None
    layer: int | None
    step: int
    loss: float | None
    evidence: str


@dataclass(frozen=True)
class Choice:
    """A point as a candidate: its own trials, and what it and its neighbours promise.

    `loss` is the mean over its finished seeds; `expected` the mean over seeds and neighbours, failures counted as chance; `bound`
    its upper 95% limit, which the robust optimum minimises. `neighbours`: effective number of trials behind it. `fresh`: of a
    finalist, the mean loss on seeds that the search has not seen.
    """

    point: int
    values: dict[str, Any]
    loss: float | None
    seeds: int
    failures: int
    expected: float
    bound: float
    neighbours: float
    fresh: float | None = None


@dataclass(frozen=True)
class Reach:
    """How far one parameter of the recommendation may move, the others fixed, before P(success) falls below 0.9.

    A range gives low..high (`*_is_edge`: the searched space ends there, not success), choices give `allowed`; all None where the
    recommendation itself is below. `curve`: P(success) on the way, from a logistic model of all parameters.
    """

    name: str
    value: Any
    low: float | None
    high: float | None
    low_is_edge: bool
    high_is_edge: bool
    allowed: list[Any] | None
    probability: float | None
    curve: list[Sample]
    by_choice: list[Bin]


@dataclass(frozen=True)
class Recommendation:
    """The robust optimum, the next one, and the point of the best single run (`best_loss` with seed `best_seed`) beside them.

    `success`: at the robust optimum by the logistic model of `reach`; its hits and n count the point and its neighbours, each
    as much as it is near. `at_risk`: below 0.9.
    """

    robust: Choice
    runner_up: Choice | None
    best_run: Choice
    best_loss: float
    best_seed: int
    success: Share
    at_risk: bool
    reach: list[Reach]


@dataclass(frozen=True)
class Final:
    """A finalist rerun on fresh seeds: the figures to publish. losses of the finished ones, their mean and sample deviation."""

    point: int
    values: dict[str, Any]
    losses: list[float]
    mean: float | None
    spread: float | None
    success: Share


@dataclass(frozen=True)
class Predictor:
    """How well one figure (or `combined`: all of them, in a logistic model) tells failures from successes.

    The rule is fitted on one half of the recipes: whether `high` or `low` values mean failure (`failing`; None for `combined`),
    and a threshold with at most 5% false alarms there. `auc`, `caught`, `false_alarms` (shares of trials) and `roc` (pairs of
    false-alarm rate and share caught) are of the other half, and None or empty where a half has too few trials (`reason`).
    """

    name: str
    failing: str | None
    auc: float | None
    lower: float | None
    upper: float | None
    caught: Share | None
    false_alarms: Share | None
    roc: list[tuple[float, float]]
    reason: str | None


@dataclass(frozen=True)
class Early:
    """Early warning at `fraction` of the budget, from trials that were still running without alarm; `over`: failed before it."""

    fraction: float
    successes: int
    failures: int
    over: int
    predictors: list[Predictor]
    reason: str | None


@dataclass(frozen=True)
class Sensitivity:
    """All answers about one table of trials; `notes` are sentences for the reader (what was left out, what is too few)."""

    contestants: list[str]
    axes: list[AxisFacts]
    counts: Counts
    reference: Reference | None
    curves: list[Curve]
    pairs: list[Pair]
    interactions: list[Interaction]
    quality: Importance
    failure: Importance
    failures: list[Failure]
    recommendation: Recommendation | None
    finals: list[Final]
    early: list[Early]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """As JSON's values, under the fields' names."""
        return asdict(self)
