"""What a routing group's tokens ask of its experts' capacity, in closed form (the analysis before any training).

Axes: J rounds of choices (every token's first choice is served before any second one), K = their number.

A group holds `image` and `text` tokens; each makes K choices among E experts, and an expert has C = ceil(tokens * K * cf / E)
places in it. Within a round, tokens are served images first (the stream's order, `first-come`) or by their gates (`bpr`).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Group:
    """A routing group: its tokens by modality (whole numbers), and the routing parameters E, K and capacity factor."""

    image: int
    text: int
    experts: int
    k: int
    capacity_factor: float

    @property
    def tokens(self) -> int:
        """All tokens of the group."""
        return self.image + self.text

    @property
    def fair_share(self) -> float:
        """(Token, choice) pairs an expert gets if all get the same number."""
        return self.tokens * self.k / self.experts

    @property
    def capacity(self) -> int:
        """Places an expert has (the router gives it no more than the group has tokens)."""
        return math.ceil(round(self.tokens * self.k * self.capacity_factor / self.experts, 9))

    def text_placed(self, text_experts: int, text_first: bool) -> float:
        """Share of text's (token, choice) pairs that find a place when images spread evenly over all experts, text over some.

        In round j an expert that text uses has already given places to j (first-come) or j - 1 (text first) rounds of image / E
        images and to j - 1 rounds of text / n text tokens. For K = 1: min(1, (C - image / E) n / text) first-come, and
        min(1, C n / text) text first, the best that batch priority routing can do (text has the larger gates).

        >>> Group(image=80, text=20, experts=10, k=1, capacity_factor=1.0).text_placed(text_experts=1, text_first=False)
        0.1
        """
        images, texts = self.image / self.experts, self.text / text_experts
        taken_J = [(j - text_first) * images + (j - 1) * texts for j in range(1, self.k + 1)]
        return sum(min(1.0, max(0.0, self.capacity - taken) / texts) for taken in taken_J) / self.k

    def factor_needed(self, text_experts: int, share: float) -> float:
        """The capacity factor from which, first-come and with images spread evenly, `share` of text is placed in every round.

        C >= K image / E + (K - 1 + share) text / n, as a multiple of the fair share.
        """
        places = self.k * self.image / self.experts + (self.k - 1 + share) * self.text / text_experts
        return places / self.fair_share

    def experts_needed(self, tokens: int, share: float) -> int:
        """The fewest experts that can hold `share` of so many tokens' choices, if nothing else were there: ceil(share t K / C).

        Spread evenly over n experts, routing has entropy log n; with less than log of this number, tokens must be dropped.
        """
        return min(self.experts, max(1, math.ceil(round(share * tokens * self.k / self.capacity, 9))))

    def placed_at_random(self) -> float:
        """Expected share placed, whatever the order, when every choice falls on any expert alike: E[min(X, C)] / E[X].

        X ~ Binomial(tokens * K, 1/E). Exact for K = 1; above, it takes a token's choices for independent.
        """
        return expected_placed(0, self.tokens * self.k, self.capacity, self.experts)

    def dropped_at_random(self, rule: str) -> tuple[float, float]:
        """(text's, images') expected share without a place when choices fall on any expert alike, under a priority rule.

        Gates say nothing then, so bpr is like shuffled: both modalities drop the same. Under the others one modality goes first
        in each round, and the other finds what it has left.
        """
        if rule in ("bpr", "shuffled"):
            return 1 - self.placed_at_random(), 1 - self.placed_at_random()
        first, second = (self.text, self.image) if rule == "text-first" else (self.image, self.text)
        earlier = [(j - 1) * self.tokens for j in range(1, self.k + 1)]
        placed_first = fmean(expected_placed(before, first, self.capacity, self.experts) for before in earlier)
        placed_second = fmean(expected_placed(before + first, second, self.capacity, self.experts) for before in earlier)
        dropped = max(0.0, 1 - placed_first), max(0.0, 1 - placed_second)  # rounding can place a little more than all
        return dropped if rule == "text-first" else dropped[::-1]

    def worst_text_placed(self, text_first: bool, capacity: int | None = None) -> float:
        """Expected share of text placed if all of it wants the same K experts and images fall on any expert alike.

        As `text_placed` on K experts, but with images that scatter; capacity: places of an expert, if not the group's own.
        """
        capacity = self.capacity if capacity is None else capacity
        texts, shares = self.text / self.k, []
        for j in range(1, self.k + 1):
            room = capacity - (j - 1) * texts
            taken = binomial((j - text_first) * self.image, 1 / self.experts, max(0, math.ceil(room)))
            left = np.clip(room - np.arange(len(taken)), 0, texts)
            shares.append(float(taken @ left) / texts)
        return fmean(shares)

    def worst_factor_needed(self, share: float, text_first: bool) -> float:
        """The capacity factor from which `worst_text_placed` is at least `share`."""
        images = self.k * self.image / self.experts
        most = math.ceil(images + 10 * math.sqrt(images) + self.text) + 1  # more images than that never come
        places = bisect_left(range(most), share - 1e-9, key=lambda capacity: self.worst_text_placed(text_first, capacity))
        return places / self.fair_share

    def random_factor_needed(self, share: float) -> float:
        """The capacity factor at which random uniform routing places `share`: the fewer tokens, the more their loads scatter."""
        claims = self.tokens * self.k
        held = expected_min(claims, claims, self.experts) / (claims / self.experts)
        return int(np.searchsorted(held, share - 1e-12)) / self.fair_share


def expected_placed(before: int, mine: int, capacity: int, experts: int) -> float:
    """Expected share of `mine` claims placed if `before` claims go first and each falls on one of `experts` at random.

    E[min(M, max(0, C - B))] / E[M] with B ~ Binomial(before, 1/E) and M ~ Binomial(mine, 1/E).

    >>> expected_placed(before=0, mine=2, capacity=1, experts=2)  # both on the same one half of the time
    0.75
    """
    left = expected_min(mine, capacity, experts)
    taken = binomial(before, 1 / experts, capacity)
    return float(taken @ left[::-1]) / (mine / experts)


def expected_min(claims: int, most: int, experts: int) -> NDArray[np.float64]:
    """E[min(M, c)] for c = 0 .. most, with M ~ Binomial(claims, 1/E): the sum over j = 1 .. c of P(M >= j)."""
    below = np.cumsum(binomial(claims, 1 / experts, most))[:-1] if most else np.zeros(0)
    return np.concatenate([[0.0], np.cumsum(np.clip(1 - below, 0, 1))])


def binomial(trials: int, chance: float, most: int) -> NDArray[np.float64]:
    """P(X = j) for j = 0 .. most, X ~ Binomial(trials, chance), 0 < chance < 1; in logarithms, so `trials` may be large."""
    steps = np.arange(1, min(trials, most) + 1)
    ratios = np.log((trials - steps + 1) / steps) + math.log(chance) - math.log1p(-chance)
    logs = trials * math.log1p(-chance) + np.concatenate([[0.0], np.cumsum(ratios)])
    return np.concatenate([np.exp(logs), np.zeros(most + 1 - len(logs))])
