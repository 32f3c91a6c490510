"""What the balance analysis gives reason to say: sentences with figures, and what to change."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from limoe.config import MoeParams
from limoe.data.needs import Needs, WorstCase, round_up
from limoe.data.negatives import ALIKE, Negatives
from limoe.data.scope import Scope
from limoe.data.scripts import Kind
from limoe.data.statistics import Validation, Vocabulary

UNKNOWN_LIMIT = 0.001  # share of [UNK] tokens that is worth a word
TRUNCATED_LIMIT = 0.01  # share of cut captions
USED_LIMIT = 0.5  # share of the vocabulary that training captions should use
TEXT_LIMIT = 0.1  # share of text tokens below which balancing over both modalities hardly sees text
NEGATIVES_LIMIT = 0.1  # false negatives for each pair of a batch


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


def kind_warnings(kinds: Sequence[Kind]) -> Iterator[str]:
    """What captions of one source and script give reason to say, beside what is said of their source as a whole."""
    for kind in kinds:
        alone = sum(other.source == kind.source for other in kinds) == 1
        if kind.truncated > TRUNCATED_LIMIT and not alone:
            yield f"{kind.source}: of its {kind.captions} captions in {kind.script} script {kind.truncated:.1%} are cut"
        if kind.unknown > UNKNOWN_LIMIT and not alone:
            yield (
                f"{kind.source}: {kind.unknown:.2%} of the tokens of its captions in {kind.script} script are unknown to the "
                "tokenizer"
            )


def negatives_warnings(negatives: Negatives) -> Iterator[str]:
    """What equal and nearly equal captions give reason to say."""
    share = negatives.alike / negatives.batch
    if share > NEGATIVES_LIMIT:
        yield (
            f"a batch of {negatives.batch} pairs holds about {negatives.alike:.0f} pairs of captions that differ but share "
            f"{ALIKE:.0%} of their tokens, each other's false negatives: write captions that tell the pictures apart, or lower "
            "train.batch"
        )


def routing_warnings(routing: Needs, moe: MoeParams, target: float) -> Iterator[str]:
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


def worst_warnings(worst: WorstCase, moe: MoeParams) -> Iterator[str]:
    """What the worst case gives reason to say where nothing keeps text from it."""
    used = next(size for size in worst.sizes if size.pairs == moe.group_pairs)
    free = moe.aux_coefficient == 0 or moe.aux_weights.global_text == 0
    if free and moe.router == "top-k" and used.kept_priority < worst.target:
        yield (
            f"nothing keeps text from gathering on one expert, where at best {used.kept_priority:.0%} of it would be placed: set "
            f"model.moe.aux_weights.global_text above 0, or model.moe.capacity_factor to {used.factor_priority:.2f}"
        )
