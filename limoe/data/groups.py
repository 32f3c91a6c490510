"""Which split rows of the user's own lie in that belong together: by a group that is named, or else because their pictures are
equal, byte for byte. What one row tells of its split holds for the others, whatever file they are in.

Axes: N rows of all parts in the order of the set, S rows whose set names them into another split than an equal picture.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from limoe.data.formats.splits import SPLITS
from limoe.data.rows import Drops, Rows
from limoe.data.schema import Record
from limoe.data.sources import Candidate, Rejected

Tie = tuple[int | None, bool | None]
Mask = NDArray[np.bool_]
TIES = pa.schema([("group", pa.uint64()), ("named", pa.bool_())])
GROUP_BYTES = 8  # of a hash: among a hundred million groups two are taken for one with a probability of 0.0003
CONFLICT, CONFLICTING = "split-conflict", "of one group with {other}, which is named into another split"


def tie(record: Record) -> Tie:
    """A hash of the group, if it is named, and whether the split is; None and None if the source answers for its splits."""
    bond = record.bond
    if bond is None:
        return None, None
    if bond.group is None:
        return None, bond.named
    digest = hashlib.sha256(f"{record.source}/{bond.group}".encode()).digest()
    return int.from_bytes(digest[:GROUP_BYTES], sys.byteorder), bond.named


def write_ties(path: Path, ties: Sequence[Tie]) -> None:
    """Write those of a part's records into a file."""
    pq.write_table(pa.Table.from_pylist([dict(zip(TIES.names, one, strict=True)) for one in ties], TIES), path)


@dataclass(frozen=True)
class Settled:
    """rows: with each group in one split. conflicts: kept rows of a named group that their set names into another split than the
    group's: they go. straddling: (2, S) the like, but of equal pictures, and of each the other row: both stay."""

    rows: Rows
    conflicts: Drops
    straddling: NDArray[np.int64]


def settle(rows: Rows, kept_N: Mask, ties: Sequence[Path]) -> Settled:
    """The groups of the rows `kept_N`, each in its split. ties: of every part the file that `write_ties` wrote.

    A split that a row names counts more than one that a hash chose; then `test` counts more than `val`, and that more than
    `train`: the order of the rows is of no account, and no test shrinks for the sake of training. Rows without a named split go
    along. One with another name stays where its set puts it, but not if the set has named the group, too: it cannot have both.
    """
    groups_N, by_name_N, named_N, tied_N = _read(rows, ties)
    ranks = np.array([SPLITS.index(name) if name in SPLITS else 0 for name in rows.splits], np.int8)
    rank_N = ranks[rows.split] + np.int8(len(SPLITS)) * named_N
    mine = np.flatnonzero(kept_N & tied_N)
    mine = mine[np.lexsort((-rank_N[mine], groups_N[mine]))]  # group by group, of each the row that counts most before others
    begins = np.ones(len(mine), np.bool_)
    begins[1:] = groups_N[mine[1:]] != groups_N[mine[:-1]]
    leads = mine[begins][np.cumsum(begins) - 1]
    apart = rows.split[mine] != rows.split[leads]
    mine, leads = mine[apart], leads[apart]

    named, by_name, split_N = named_N[mine], by_name_N[mine], rows.split.copy()
    split_N[mine[~named]] = rows.split[leads[~named]]
    both = np.flatnonzero(named & by_name)
    both = both[np.argsort(mine[both])]
    return Settled(
        rows=replace(rows, split=split_N),
        conflicts=Drops(CONFLICT, mine[both], leads[both]),
        straddling=np.stack([mine, leads])[:, named & ~by_name],
    )


def conflicts(candidates: Sequence[Candidate]) -> list[Rejected]:
    """Those of a few candidates of one set that `settle` will find in conflict with another of them."""
    named = [one for one in candidates if one.bond and one.bond.group and one.bond.named]
    leads = {one.split_group: one for one in sorted(named, key=lambda one: SPLITS.index(one.split))}
    return [
        Rejected(one.key, one.source, CONFLICT, CONFLICTING.format(other=leads[one.split_group].key))
        for one in named
        if one.split != leads[one.split_group].split
    ]


def _read(rows: Rows, ties: Sequence[Path]) -> tuple[NDArray[np.uint64], Mask, Mask, Mask]:
    """(N,) of each: hash of the group, whether that is a named one, whether the split is named, and whether there is a bond."""
    groups_N = rows.pictures[:, 0].copy()
    by_name_N, named_N, tied_N = (np.zeros(len(groups_N), np.bool_) for _ in range(3))
    for number, path in enumerate(ties):
        own = slice(rows.starts[number], rows.starts[number + 1])
        table = pq.read_table(path, partitioning=None)
        by_name_N[own] = table["group"].is_valid()
        np.copyto(groups_N[own], table["group"].fill_null(0), where=by_name_N[own])
        named_N[own] = table["named"].fill_null(False)
        tied_N[own] = table["named"].is_valid()
    return groups_N, by_name_N, named_N, tied_N
