"""The modality-balance analysis: what each modality brings, and what follows for routing, before any training.

Only training and validation splits are opened. "a training batch" is what training draws: from each source by its share of
train.mixture. Training rows of sources without a share count for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from limoe.config import SELECTION_SPLITS, MoeParams, Params
from limoe.data.advice import caption_warnings, kind_warnings, negatives_warnings, routing_warnings, worst_warnings
from limoe.data.mixture import source_rows
from limoe.data.needs import WorstCase, group_sizes, suggested
from limoe.data.negatives import Negatives
from limoe.data.prepared import Prepared
from limoe.data.schema import TRAIN
from limoe.data.scope import Scope
from limoe.data.scripts import Kind, kinds
from limoe.data.settings import Setting, settings
from limoe.data.statistics import Lengths, Rows, Track, Validation, Vocabulary

BATCH = "a training batch"


@dataclass(frozen=True)
class BalanceReport:
    """Everything. scopes: a training batch, then each source if there are several. mixture: share of each, their sum 1.

    kinds: captions by source and script. worst, settings: of a training batch. suggestion: what `model.moe.router: auto` stands
    for, by name under model.moe; in_use: the same of what is in use, with tau_* as numbers (nats). warnings: sentences with
    figures and what to change.
    """

    scopes: tuple[Scope, ...]
    mixture: dict[str, float]
    vocabulary: Vocabulary
    kinds: tuple[Kind, ...]
    validation: tuple[Validation, ...]
    negatives: Negatives
    worst: WorstCase
    settings: tuple[Setting, ...]
    suggestion: dict[str, Any]
    text_length: int
    in_use: dict[str, Any]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able values."""
        return asdict(self)

    def metrics(self) -> dict[str, Any]:
        """What DVC shows of them, rounded."""
        total = self.scopes[0]
        routing = total.routing
        return {
            "tokens": {"image": total.image_tokens, "text": _round(total.lengths.mean), "ratio": _round(total.ratio)},
            "captions": {
                "truncated": _round(total.lengths.truncated),
                "unknown": _round(self.vocabulary.unknown),
                "alike_pairs": _round(self.negatives.alike),
            },
            "routing": {
                "random_placed": _round(routing.random_placed),
                "one_expert_priority_text": _round(routing.one_expert_priority_text),
                "tau_text": _round(self.suggestion["tau_text"]),
                "tau_image": _round(self.suggestion["tau_image"]),
            },
        }


def analyse(prepared: Prepared, params: Params, track: Track) -> BalanceReport:
    """Analyse what training draws, by source and together, and the validation splits beside it.

    UserError if the prepared set has no training rows, or none of a source that train.mixture wants.
    """
    model, target, mixture = params.model, params.balance.target_placed, params.train.mixture
    shares = {name: share / sum(mixture.values()) for name, share in sorted(mixture.items()) if share > 0}
    everything = Rows.of(prepared, TRAIN, track)
    source_rows(everything.sources, list(shares))
    train = everything.only(*shares)
    unk_id, length, images = prepared.tokenizer.unk_id, model.tower.text_length, model.tower.image_tokens
    lengths = Lengths.of(train.ids_RK, train.weights(shares), length)
    suggestion = suggested(images, lengths.mean, model.moe, target)
    if model.moe.router == "auto":
        model = model.model_copy(update={"moe": model.moe.model_copy(update=suggestion)})
    moe = model.moe
    scopes = [Scope.of(BATCH, train, shares, model, params.balance)]
    scopes += [Scope.of(name, train.only(name), {name: 1.0}, model, params.balance) for name in shares if len(shares) > 1]
    validation = [
        Validation.of(split, Rows.of(prepared, split, track), train, unk_id, length)
        for split in prepared.splits
        if split in SELECTION_SPLITS
    ]
    report = BalanceReport(
        scopes=tuple(scopes),
        mixture=shares,
        vocabulary=Vocabulary.of(train, prepared.tokenizer),
        kinds=kinds(train, unk_id, length),
        validation=tuple(validation),
        negatives=Negatives.of(train, shares, params.train.batch),
        worst=WorstCase.of(images, lengths.mean, moe, target, group_sizes(params.train.batch, moe.group_pairs)),
        settings=settings(model, lengths, target),
        suggestion=suggestion,
        text_length=length,
        in_use=moe.model_dump(include=set(suggestion)) | dict(zip(("tau_text", "tau_image"), moe.thresholds, strict=True)),
        warnings=(),
    )
    return replace(report, warnings=tuple(warnings_of(report, moe, target)))


def warnings_of(report: BalanceReport, moe: MoeParams, target: float) -> Iterator[str]:
    """All that the report gives reason to say. moe: in use."""
    yield from caption_warnings(report.scopes, report.vocabulary, report.validation, report.text_length)
    yield from kind_warnings(report.kinds)
    yield from negatives_warnings(report.negatives)
    yield from routing_warnings(report.scopes[0].routing, moe, target)
    yield from worst_warnings(report.worst, moe)


def _round(value: float) -> float:
    return round(value, 4)
