"""What a routing group asks of the experts, from token counts alone, and what the balance analysis suggests for it.

All formulas are in limoe.data.capacity.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from limoe.config import PRIORITIES, MoeParams
from limoe.data.capacity import Group


@dataclass(frozen=True)
class Needs:
    """What a routing group of these pairs asks of the experts.

    image_tokens, text_tokens: of a group. fair_share: choices an expert gets if all get the same. random_placed: expected share
    placed if every choice falls on any expert alike; random_dropped: for each priority rule, the shares of text and of images
    that then find no place. one_expert_*: share of text placed if all text wants the same expert (the same K) and images spread
    evenly. experts_*: the fewest experts suggested for each modality (the paper's share of E, or what its tokens fill if that is
    more); tau_*: their logs, in nats. factor_*: capacity factors from which `target_placed` of text is placed: first-come with
    text on `experts_text` experts, or random as above; both are what to set, so they are rounded up to two digits. text_placed:
    rows (n, first-come, with priority), the shares of text placed if it spreads evenly over n experts and images over all.
    """

    image_tokens: int
    text_tokens: int
    fair_share: float
    capacity: int
    random_placed: float
    random_dropped: dict[str, tuple[float, float]]
    one_expert_first_come_text: float
    one_expert_priority_text: float
    experts_text: int
    experts_image: int
    tau_text: float
    tau_image: float
    factor_first_come: float
    factor_random: float
    text_placed: tuple[tuple[int, float, float], ...]

    @classmethod
    def of(cls, image_tokens: int, text_tokens: float, moe: MoeParams, target: float) -> Needs:
        """For pairs of so many tokens each; `target`: the share of text that should be placed."""
        group = group_of(image_tokens, text_tokens, moe, moe.group_pairs)
        text = max(math.ceil(9 * moe.experts / 32), group.experts_needed(group.text, target), moe.k)
        image = max(math.ceil(20 * moe.experts / 32), group.experts_needed(group.image, target), moe.k)
        return cls(
            image_tokens=group.image,
            text_tokens=group.text,
            fair_share=group.fair_share,
            capacity=group.capacity,
            random_placed=group.placed_at_random(),
            random_dropped={rule: group.dropped_at_random(rule) for rule in PRIORITIES},
            one_expert_first_come_text=group.text_placed(moe.k, text_first=False),
            one_expert_priority_text=group.text_placed(moe.k, text_first=True),
            experts_text=text,
            experts_image=image,
            tau_text=round_up(math.log(text)),
            tau_image=round_up(math.log(image)),
            factor_first_come=round_up(group.factor_needed(text, target)),
            factor_random=round_up(group.random_factor_needed(target)),
            text_placed=tuple(
                (n, group.text_placed(n, False), group.text_placed(n, True)) for n in range(moe.k, moe.experts + 1)
            ),
        )


class WorstSize(NamedTuple):
    """For routing groups of so many pairs. factor_*: capacity factors from which the target share of text is placed, with text
    first and first-come. kept_*: shares placed with the factor in use in these two orders."""

    pairs: int
    factor_priority: float
    factor_first_come: float
    kept_priority: float
    kept_first_come: float


@dataclass(frozen=True)
class WorstCase:
    """All text wants the same K experts, and images fall on any expert alike.

    smallest_*: the smallest of the `sizes` for which the factor in use places `target` of text, None if there is none.
    """

    target: float
    sizes: tuple[WorstSize, ...]
    smallest_priority: int | None
    smallest_first_come: int | None

    @classmethod
    def of(cls, image_tokens: int, text_tokens: float, moe: MoeParams, target: float, sizes: Iterable[int]) -> WorstCase:
        """For pairs of so many tokens each. sizes: pairs of the routing groups to look at, ascending."""
        groups = [(pairs, group_of(image_tokens, text_tokens, moe, pairs)) for pairs in sizes]
        rows = tuple(
            WorstSize(
                pairs,
                round_up(group.worst_factor_needed(target, text_first=True)),
                round_up(group.worst_factor_needed(target, text_first=False)),
                group.worst_text_placed(text_first=True),
                group.worst_text_placed(text_first=False),
            )
            for pairs, group in groups
        )
        priority = next((row.pairs for row in rows if row.kept_priority >= target), None)
        first_come = next((row.pairs for row in rows if row.kept_first_come >= target), None)
        return cls(target, rows, priority, first_come)


def group_of(image_tokens: int, text_tokens: float, moe: MoeParams, pairs: int) -> Group:
    """A routing group of so many pairs of so many tokens each."""
    text = max(1, round(text_tokens * pairs))
    return Group(image_tokens * pairs, text, moe.experts, moe.k, moe.capacity_factor)


def group_sizes(batch: int, used: int) -> Sequence[int]:
    """The group sizes to look at: the one in use, and the batch, halved as often as it goes.

    >>> group_sizes(96, 32)
    [3, 6, 12, 24, 32, 48, 96]
    """
    return sorted({used} | {batch >> halvings for halvings in range(batch.bit_length()) if batch % (1 << halvings) == 0})


def suggested(image_tokens: int, text_tokens: float, moe: MoeParams, target: float) -> dict[str, Any]:
    """What `model.moe.router: auto` stands for, by name under model.moe: the paper's router, a capacity factor that places
    `target` of the tokens at random, never less than the one in use, and the thresholds that follow from it (nats)."""
    factor = max(moe.capacity_factor, Needs.of(image_tokens, text_tokens, moe, target).factor_random)
    needs = Needs.of(image_tokens, text_tokens, moe.model_copy(update={"capacity_factor": factor}), target)
    return {"router": "top-k", "capacity_factor": factor, "tau_text": needs.tau_text, "tau_image": needs.tau_image}


def round_up(value: float) -> float:
    """`value` with two digits, never less: whoever follows the advice must not be advised again."""
    return math.ceil(round(100 * value, 7)) / 100
