"""Which labelled training pictures a probe learns from: drawn class by class, by seed.

A draw follows from the seed and the pictures' keys alone, and not from their order; it is the same for every model. Draws of one
seed are nested: its one picture a class is among its five.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from limoe.config import ProbeParams
from limoe.data.prepared import Prepared
from limoe.data.schema import TRAIN
from limoe.evals.pictures import Part, PreparedPictures
from limoe.evals.sets import EvalSet


def shuffled(train: EvalSet, seed: int) -> dict[str, list[int]]:
    """Each label's rows, in the order in which this seed draws them."""
    found: dict[str, list[int]] = {}
    for row in sorted(range(len(train)), key=lambda row: hashlib.sha256(f"{seed}/{train.keys[row]}".encode()).digest()):
        found.setdefault(str(train.labels[row]), []).append(row)
    return found


def draw(order: Mapping[str, Sequence[int]], count: int) -> list[int]:
    """Rows of the first `count` pictures of each label, or of as many as it has.

    >>> draw({"cat": [4, 0, 2], "dog": [3, 1]}, 2)
    [0, 1, 3, 4]
    """
    return sorted(row for rows in order.values() for row in rows[:count])


def divide(train: EvalSet, share: float) -> tuple[list[int], list[int]]:
    """(rows to learn from, rows held out): of each label the share that is held out, one picture at least and never all; each
    label must have two."""
    held = {row for rows in shuffled(train, 0).values() for row in rows[: min(max(1, round(share * len(rows))), len(rows) - 1)]}
    return [row for row in range(len(train)) if row not in held], sorted(held)


def feasible(train: EvalSet, probe: ProbeParams) -> tuple[list[int], bool]:
    """(those of probe.shots that every label has pictures for, whether there is a full probe: it needs two of every label)."""
    fewest = min(Counter(train.labels).values())
    return [count for count in probe.shots if count <= fewest], bool(probe.full_l2) and fewest >= 2


def trimmed(data: EvalSet, probe: ProbeParams) -> EvalSet:
    """The set with those of its training pictures that its probes look at, so that no other is read or embedded."""
    if data.train is None:
        return data
    shots, full = feasible(data.train, probe)
    if full:
        return data
    rows = {row for seed in range(probe.draws) for row in draw(shuffled(data.train, seed), max(shots))} if shots else set()
    return replace(data, train=data.train.take(sorted(rows)) if rows else None)


def with_training(data: EvalSet, prepared: Prepared) -> EvalSet:
    """A split of a prepared set with the pictures of its labels that were trained on, if each label has one. None is read yet:
    the training pictures may be many."""
    wanted = set(data.candidates)
    if TRAIN not in prepared.splits or len(wanted) < 2:
        return data
    labels = prepared.table(TRAIN, ["label"])["label"].to_pylist()
    rows = [row for row, label in enumerate(labels) if label in wanted]
    if wanted - {labels[row] for row in rows}:
        return data
    table = prepared.table(TRAIN, ["key", "label", "split_group"]).take(rows)
    train = EvalSet(
        name=f"{data.name}/{TRAIN}",
        keys=tuple(table["key"].to_pylist()),
        images=Part(PreparedPictures(prepared, TRAIN), rows),
        captions=((),) * len(rows),
        labels=tuple(table["label"].to_pylist()),
        groups=tuple(table["split_group"].to_pylist()),
    )
    return replace(data, train=train)
