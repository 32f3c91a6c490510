"""What a contestant costs, whether two cost the same, and who is worth its cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

TRAINING_PER_FORWARD = 3  # as in limoe/model/costs.py, whose model this stage does not depend on
EQUAL = 0.10  # what budgets may differ by: a LIMoE's router and a CLIP's width take a little more or less


@dataclass(frozen=True)
class Budget:
    """params: numbers it holds, and those that one token meets. forward: FLOPs of one pair. samples: pairs seen in training.
    data: hash of the prepared set it was trained on. tuning: trials of the search behind its settings. None: unknown."""

    params_total: float
    params_active: float
    forward: float
    samples: float | None
    data: str | None
    tuning: int | None

    @property
    def training(self) -> float | None:
        """FLOPs of the whole training: three forward passes a pair."""
        return None if self.samples is None else TRAINING_PER_FORWARD * self.forward * self.samples

    def difference(self, other: Budget) -> str:
        """Why the two are not comparable as models, "" if they are: the first that differs of data, pairs seen and FLOPs."""
        if self.samples is None or other.samples is None or self.training is None or other.training is None:
            return "what its training cost is unknown"
        if self.data is None or self.data != other.data:
            what = "unknown" if other.data is None else "other"
            return f"{what} training data, {_times(other.training / self.training)} the FLOPs"
        if self.samples != other.samples:
            return f"{_times(other.samples / self.samples)} the pairs"
        if abs(other.training / self.training - 1) > EQUAL:
            return f"{_times(other.training / self.training)} the FLOPs"
        return ""


def frontier(costs: Sequence[float], scores: Sequence[float]) -> list[int]:
    """Places of those that no other beats: none costs at most as much and scores at least as high, one of the two strictly. In
    the order of cost.

    >>> frontier([1.0, 2.0, 3.0, 4.0], [0.2, 0.5, 0.4, 0.6])
    [0, 1, 3]
    """
    points = list(zip(costs, scores, strict=True))
    best = [
        place
        for place, (cost, score) in enumerate(points)
        if not any(c <= cost and s >= score and (c, s) != (cost, score) for c, s in points)
    ]
    return sorted(best, key=lambda place: points[place])


def _times(ratio: float) -> str:
    return f"{ratio:.3g} ×"
