"""What a point's trials, one a seed, amount to: the value that the sampler is told, and whether another seed is worth its time.

How each outcome counts:
- ok, unhealthy and collapsed trials that ran to their end count with their loss: collapse is no loss, and the report judges it;
- diverged ones, and any other stopped by its alarm, count with 1.5 ln(batch), worse than chance, so that a sampler avoids them;
- a pruned first trial makes the point pruned: it stands with its last report, censored, and is not repeated;
- their seconds count as if they had gone on to the end: a recipe is not cheap because it fails early;
- oom, killed and error say nothing about the loss: a point with no other trial has failed, and teaches the sampler nothing;
- killed and error are retried once (`RETRIED`): a machine may have caused them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from limoe.sweep.outcome import Outcome

VALIDATION_BATCH = 256  # pairs, of limoe.evals.validation, whose loss at chance is its logarithm
PENALTY = 1.5 * math.log(VALIDATION_BATCH)
RETRIED = ("killed", "error")
BETTER = 3  # one of so many points is promising
FINAL_SEEDS = (1000, 1001, 1002, 1003, 1004)  # never those of a search


@dataclass(frozen=True)
class Verdict:
    """state: as Optuna is told. values: mean loss and mean seconds over the trials that count, for a complete point."""

    state: Literal["complete", "pruned", "fail"]
    loss: float | None = None
    seconds: float | None = None
    succeeded: bool = False  # every trial was ok


def trial_loss(outcome: Outcome) -> float | None:
    """What one trial counts with; None if it says nothing about the loss.

    >>> trial_loss(Outcome("collapsed", step=400, evidence="", steps_planned=400, loss=3.5))
    3.5
    """
    if outcome.kind in ("oom", "pruned", "killed", "error"):
        return None
    finished = outcome.step >= outcome.steps_planned and outcome.kind != "diverged"
    if finished and outcome.loss is not None and math.isfinite(outcome.loss):
        return outcome.loss
    return PENALTY


def trial_seconds(outcome: Outcome) -> float:
    """What the whole training takes, or would have taken.

    >>> trial_seconds(Outcome("diverged", step=100, evidence="", steps_planned=400, seconds=15.0))
    60.0
    """
    return outcome.seconds * max(1.0, outcome.steps_planned / max(1, outcome.step))


def judge(outcomes: Sequence[Outcome]) -> Verdict:
    """The verdict on a point from its trials (at least one) in the order of their seeds."""
    if outcomes[0].kind == "pruned":
        return Verdict("pruned")
    counted = [(loss, trial_seconds(outcome)) for outcome in outcomes if (loss := trial_loss(outcome)) is not None]
    if not counted:
        return Verdict("fail")
    return Verdict(
        "complete",
        loss=fmean(loss for loss, _ in counted),
        seconds=fmean(seconds for _, seconds in counted),
        succeeded=all(outcome.kind == "ok" for outcome in outcomes),
    )


def promising(verdict: Verdict, others: Sequence[Verdict]) -> bool:
    """Whether a point is worth another seed: all its trials were ok, and it belongs to the better third of the points so far.

    others: the verdicts on the points that are closed. Those that did not succeed count as worse, whatever their loss.

    >>> promising(Verdict("complete", 3.0, 60, True), [Verdict("complete", 2.9, 60, True), Verdict("fail")])
    False
    """
    if not verdict.succeeded or verdict.loss is None:
        return False
    ahead = sum(other.succeeded and other.loss is not None and other.loss < verdict.loss for other in others)
    return ahead < math.ceil((len(others) + 1) / BETTER)
