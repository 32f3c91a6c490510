"""The modality-balance analysis: what each modality brings, and what follows for routing, before any training.

Only training and validation splits are opened. "a training batch" is what training draws: from each source by its share of
train.mixture. Training rows of sources without a share count for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from limoe.config import BalanceParams, ModelParams, MoeParams
from limoe.data.capacity import Group
from limoe.data.mixture import source_rows
from limoe.data.prepared import Prepared
from limoe.data.schema import SELECTION_SPLITS, TRAIN
from limoe.data.statistics import Duplicates, Lengths, Rows, Track, Validation, Vocabulary

BATCH = "a training batch"
UNKNOWN_LIMIT = 0.001  # share of [UNK] tokens that is worth a word
TRUNCATED_LIMIT = 0.01  # share of cut captions
USED_LIMIT = 0.5  # share of the vocabulary that training captions should use
TEXT_LIMIT = 0.1  # share of text tokens below which balancing over both modalities hardly sees text


@dataclass(frozen=True)
class Routing:
    """What a routing group of these pairs asks of the experts; the formulas are in limoe.data.capacity.

    image_tokens, text_tokens: of a group. fair_share: choices an expert gets if all get the same. random_*: expected shares
    placed if every choice falls on any expert alike. one_expert_*: share of text placed if all text wants the same expert (the
    same K) and images spread evenly. experts_*: the fewest experts suggested for each modality (the paper's share of E, or what
    its tokens fill if that is more); tau_*: their logs, in nats. factor_*: capacity factors from which `target_placed` of text
    is placed: first-come with text on `experts_text` experts, or random as above; both are what to set, so they are rounded up
    to two digits. text_placed: rows (n, first-come, with
    priority), the shares of text placed if it spreads evenly over n experts and images over all.
    """

    image_tokens: int
    text_tokens: int
    fair_share: float
    capacity: int
    random_placed: float
    random_first_come_text: float
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
    def of(cls, image_tokens: int, text_tokens: float, moe: MoeParams, target: float) -> Routing:
        """For pairs of so many tokens each; `target`: the share of text that should be placed."""
        group = Group(
            image_tokens * moe.group_pairs, round(text_tokens * moe.group_pairs), moe.experts, moe.k, moe.capacity_factor
        )
        text = max(math.ceil(9 * moe.experts / 32), group.experts_needed(group.text, target), moe.k)
        image = max(math.ceil(20 * moe.experts / 32), group.experts_needed(group.image, target), moe.k)
        return cls(
            image_tokens=group.image,
            text_tokens=group.text,
            fair_share=group.fair_share,
            capacity=group.capacity,
            random_placed=group.placed_at_random(),
            random_first_come_text=group.text_placed_at_random(),
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


@dataclass(frozen=True)
class Scope:
    """What training draws from one source, or in all. rows: it draws from. image_tokens: of a picture. ratio: to a text token."""

    name: str
    rows: int
    image_tokens: int
    lengths: Lengths
    ratio: float
    duplicates: Duplicates
    routing: Routing

    @classmethod
    def of(cls, name: str, rows: Rows, shares: Mapping[str, float], model: ModelParams, balance: BalanceParams) -> Scope:
        """Of these rows, their sources drawn by `shares`, which sum to 1."""
        lengths = Lengths.of(rows.ids_RK, rows.weights(shares), model.tower.text_length)
        image_tokens = model.tower.image_tokens
        return cls(
            name=name,
            rows=len(rows),
            image_tokens=image_tokens,
            lengths=lengths,
            ratio=image_tokens / lengths.mean,
            duplicates=Duplicates.of(rows, shares, model.moe.group_pairs),
            routing=Routing.of(image_tokens, lengths.mean, model.moe, balance.target_placed),
        )


@dataclass(frozen=True)
class BalanceReport:
    """Everything. scopes: a training batch, then each source if there are several. mixture: share of each, their sum 1.

    tau_*: the thresholds in use, in nats (the suggested ones where params say `balance`). warnings: sentences with figures and
    what to change.
    """

    scopes: tuple[Scope, ...]
    mixture: dict[str, float]
    vocabulary: Vocabulary
    validation: tuple[Validation, ...]
    text_length: int
    tau_text: float
    tau_image: float
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values."""
        return asdict(self)

    def metrics(self) -> dict[str, Any]:
        """The twelve figures that DVC shows, rounded."""
        total = self.scopes[0]
        routing = total.routing
        return {
            "tokens": {"image": total.image_tokens, "text": _round(total.lengths.mean), "ratio": _round(total.ratio)},
            "captions": {
                "truncated": _round(total.lengths.truncated),
                "unknown": _round(self.vocabulary.unknown),
                "equal_pairs": _round(total.duplicates.equal_pairs),
            },
            "routing": {
                "capacity": routing.capacity,
                "random_placed": _round(routing.random_placed),
                "one_expert_first_come_text": _round(routing.one_expert_first_come_text),
                "one_expert_priority_text": _round(routing.one_expert_priority_text),
                "tau_text": _round(routing.tau_text),
                "tau_image": _round(routing.tau_image),
            },
        }


def analyse(
    prepared: Prepared, model: ModelParams, balance: BalanceParams, mixture: Mapping[str, float], track: Track
) -> BalanceReport:
    """Analyse what training draws, by source and together, and the validation splits beside it. mixture: train.mixture.

    UserError if the prepared set has no training rows, or none of a source that the mixture wants.
    """
    shares = {name: share / sum(mixture.values()) for name, share in sorted(mixture.items()) if share > 0}
    everything = Rows.of(prepared, TRAIN, track)
    source_rows(everything.sources, list(shares))
    train = everything.only(*shares)
    scopes = [Scope.of(BATCH, train, shares, model, balance)]
    scopes += [Scope.of(name, train.only(name), {name: 1.0}, model, balance) for name in shares if len(shares) > 1]
    tokenizer, length = prepared.tokenizer, model.tower.text_length
    validation = [
        Validation.of(split, Rows.of(prepared, split, track), train, tokenizer.unk_id, length)
        for split in prepared.splits
        if split in SELECTION_SPLITS
    ]
    vocabulary = Vocabulary.of(train, tokenizer)
    moe = model.moe.suggested(scopes[0].routing.tau_text, scopes[0].routing.tau_image)
    found = [
        *caption_warnings(scopes, vocabulary, validation, length),
        *routing_warnings(scopes[0].routing, moe, balance.target_placed),
    ]
    return BalanceReport(tuple(scopes), shares, vocabulary, tuple(validation), length, *moe.thresholds, tuple(found))


def caption_warnings(
    scopes: Sequence[Scope], vocabulary: Vocabulary, validation: Sequence[Validation], text_length: int
) -> Iterator[str]:
    """What the captions and pictures give reason to say."""
    for scope in scopes[1:] or scopes:
        cut = scope.lengths
        if cut.truncated > TRUNCATED_LIMIT:
            yield (
                f"{scope.name}: {cut.truncated:.1%} of the captions are longer than model.tower.text_length = {text_length} "
                f"tokens and lose their end (the longest has {cut.longest})"
            )
        if scope.duplicates.pictures:
            yield f"{scope.name}: {scope.duplicates.pictures} of {scope.rows} pictures repeat another one byte for byte"
    for name, unknown in [("training", vocabulary.unknown), *((split.split, split.unknown) for split in validation)]:
        if unknown > UNKNOWN_LIMIT:
            yield f"{unknown:.2%} of the tokens of {name} captions are unknown to the tokenizer"
    if vocabulary.used < USED_LIMIT:
        yield f"training captions use only {vocabulary.used:.0%} of the {vocabulary.entries} entries of the vocabulary"
    for split in validation:
        if split.known_pictures:
            yield (
                f"{split.known_pictures} of the {split.rows} pictures of {split.split} are training pictures, byte for byte, "
                "which flatters its scores"
            )


def routing_warnings(routing: Routing, moe: MoeParams, target: float) -> Iterator[str]:
    """What the tokens give reason to say about the experts.

    The larger modality needs no word on tau: the importance and load terms keep the balance over all tokens, and so spread it.
    """
    tokens = routing.text_tokens + routing.image_tokens
    text_share = routing.text_tokens / tokens
    if text_share < TEXT_LIMIT:
        yield (
            f"only {text_share:.1%} of the tokens are text, the fair share of {text_share * moe.experts:.1f} experts: the "
            "balance over both modalities hardly sees it, so keep the entropy terms of text on"
        )
    if routing.random_placed < target:
        yield (
            f"even uniform random routing would place only {routing.random_placed:.1%} of the tokens (target {target:.0%}), "
            f"as loads scatter in groups of {moe.group_pairs} pairs: raise model.moe.capacity_factor to "
            f"{routing.factor_random:.2f}, or model.moe.group_pairs"
        )
    modalities = [
        ("text", routing.text_tokens, routing.experts_text, moe.thresholds[0]),
        ("image", routing.image_tokens, routing.experts_image, moe.thresholds[1]),
    ]
    for name, mine, experts, tau in modalities:
        if 2 * mine <= tokens and tau < math.log(experts) - 1e-9:
            yield (
                f"model.moe.tau_{name} = {tau:.2f} lets {name} tokens gather on {math.exp(tau):.1f} experts; {experts} are "
                f"needed to place {target:.0%} of them: set it to {round_up(math.log(experts)):.2f}"
            )


def round_up(value: float) -> float:
    """`value` with two digits, never less: whoever follows the advice must not be advised again."""
    return math.ceil(round(100 * value, 7)) / 100


def _round(value: float) -> float:
    return round(value, 4)
