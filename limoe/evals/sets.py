"""What is evaluated (splits of a prepared set, and views of them), and what an evaluation leaves (scores, each item's value).

Axes: N items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from limoe.evals.metrics import WEIGHTS
from limoe.evals.pictures import Column, Part, Pictures, content_hash, digests
from limoe.files import sha256_json

COLUMNS = ["key", "image", "captions", "label", "split_group"]
ITEM_SCHEMA = pa.schema(
    [
        pa.field("set", pa.string(), nullable=False),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
    ]
)
SKIN_TONES = range(0x1F3FB, 0x1F3FF + 1)
REGIONAL_INDICATORS = range(0x1F1E6, 0x1F1FF + 1)


@dataclass(frozen=True)
class EvalSet:
    """N pictures with their captions, labels (None where there is none) and groups (what belongs together, say a concept):
    a split of the prepared set, or a set of the user's own.

    images: encoded bytes, read a batch at a time. classes: the candidates of zero-shot classification in their order, label to
    names; by default the labels that occur, each its own name. prompts: ensembles of templates by name, of which `""` is
    reported under the set's own; by default `evaluate.templates`. train: labelled pictures, of each class one at least, that
    linear probes learn from; without them there are no probes.
    """

    name: str
    keys: tuple[str, ...]
    images: Pictures
    captions: tuple[tuple[str, ...], ...]
    labels: tuple[str | None, ...]
    groups: tuple[str, ...]
    classes: Mapping[str, tuple[str, ...]] | None = None
    prompts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    train: EvalSet | None = None

    @classmethod
    def of(cls, name: str, table: pa.Table) -> EvalSet:
        """The set that a prepared split's rows (at least COLUMNS) make."""
        return cls(
            name=name,
            keys=tuple(table["key"].to_pylist()),
            images=Column(table["image"]),
            captions=tuple(map(tuple, table["captions"].to_pylist())),
            labels=tuple(table["label"].to_pylist()),
            groups=tuple(table["split_group"].to_pylist()),
        )

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: Sequence[int]) -> EvalSet:
        """Some of the pictures."""
        return replace(
            self,
            keys=tuple(self.keys[row] for row in rows),
            images=Part(self.images, rows),
            captions=tuple(self.captions[row] for row in rows),
            labels=tuple(self.labels[row] for row in rows),
            groups=tuple(self.groups[row] for row in rows),
        )

    @cached_property
    def digests(self) -> list[str]:
        """Hex SHA-256 of each picture."""
        return digests(self.images)

    @cached_property
    def hash(self) -> str:
        """Hex SHA-256 of the content: every picture, key, caption, label and class name. All pictures are read for it."""
        told = {"captions": self.captions, "classes": self.classes, "keys": self.keys, "labels": self.labels}
        return sha256_json(told | {"pictures": content_hash(self.digests)})

    @property
    def labelled(self) -> list[int]:
        """Rows that have a label: what zero-shot classification can score."""
        return [row for row, label in enumerate(self.labels) if label is not None]

    @property
    def described(self) -> list[int]:
        """Rows that have a caption: what retrieval can score."""
        return [row for row, captions in enumerate(self.captions) if captions]

    @property
    def candidates(self) -> list[str]:
        """The labels that a picture may have, in a fixed order."""
        return list(self.classes) if self.classes is not None else sorted({label for label in self.labels if label is not None})

    @property
    def captioned(self) -> bool:
        """Whether retrieval has something to tell: two pictures or more have captions, and one says more than its picture's class
        name does, without which retrieval only repeats classification."""
        rows = self.described
        return len(rows) >= 2 and any(set(self.captions[row]) != {self.labels[row]} for row in rows)


@dataclass(frozen=True)
class View:
    """A part of a split that is reported beside the whole: the rows whose key `keep` accepts, and only the classes they have."""

    name: str
    keep: Callable[[str], bool]


def code_points(key: str) -> list[int]:
    """The code points that an emoji's key ends in.

    >>> code_points("emoji/twemoji/1F44B-1F3FB") == [0x1F44B, 0x1F3FB]
    True
    """
    return [int(part, 16) for part in key.rsplit("/", 1)[-1].split("-")]


def has_skin_tone(key: str) -> bool:
    """Whether an emoji's key holds one of the five skin tones."""
    return any(point in SKIN_TONES for point in code_points(key))


def is_country_flag(key: str) -> bool:
    """Whether an emoji's key is a pair of regional indicators, which nobody can name who was not told."""
    points = code_points(key)
    return len(points) == 2 and all(point in REGIONAL_INDICATORS for point in points)


VIEWS: Mapping[str, tuple[View, ...]] = {
    "unseen-style": (View("no-skin-tones", lambda key: not has_skin_tone(key)),),
    "unseen-concept": (View("no-flags", lambda key: not is_country_flag(key)),),
}


@dataclass(frozen=True)
class Items:
    """N scored items. keys: unique. groups: what is resampled together. values: by metric, float64 (N,), their mean the score."""

    keys: tuple[str, ...]
    groups: tuple[str, ...]
    values: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Score:
    """A number that is no mean over items (or is worth keeping beside one). n: how many things it summarises."""

    metric: str
    value: float
    n: int


@dataclass(frozen=True)
class Confused:
    """What a class's n pictures are taken for. taken_for: names of other classes and pictures, the most frequent first."""

    label: str
    name: str
    top1: float
    n: int
    taken_for: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Outcome:
    """What an evaluator found on one set. worst: its classes with the fewest hits, the worst first."""

    set: str
    items: tuple[Items, ...]
    extra: tuple[Score, ...] = ()
    worst: tuple[Confused, ...] = ()

    def scores(self) -> list[Score]:
        """Every score, in a fixed order: the means over items (not of their weights), then the others."""
        means = [
            Score(metric, float(values.mean()), len(items.keys))
            for items in self.items
            for metric, values in items.values.items()
            if metric not in WEIGHTS.values()
        ]
        return [*means, *self.extra]


def result_rows(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Every score as {"set", "metric", "value", "n"}; values rounded to 6 decimals, below what any set can resolve."""
    return [
        {"set": outcome.set, "metric": score.metric, "value": round(score.value, 6), "n": score.n}
        for outcome in outcomes
        for score in outcome.scores()
    ]


def confusion_rows(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """What the worst classes are taken for, as {"set", "class", "name", "top1", "n", "taken_for": [{"name", "n"}]}."""
    return [
        {
            "set": outcome.set,
            "class": one.label,
            "name": one.name,
            "top1": round(one.top1, 6),
            "n": one.n,
            "taken_for": [{"name": name, "n": count} for name, count in one.taken_for],
        }
        for outcome in outcomes
        for one in outcome.worst
    ]


def item_table(outcomes: Sequence[Outcome]) -> pa.Table:
    """Every item's value, one row an item and metric (ITEM_SCHEMA)."""
    pieces = [
        pa.table(
            {
                "set": pa.repeat(outcome.set, len(items.keys)),
                "metric": pa.repeat(metric, len(items.keys)),
                "key": list(items.keys),
                "group": list(items.groups),
                "value": pa.array(values, pa.float64()),
            },
            schema=ITEM_SCHEMA,
        )
        for outcome in outcomes
        for items in outcome.items
        for metric, values in items.values.items()
    ]
    return pa.concat_tables(pieces) if pieces else ITEM_SCHEMA.empty_table()
