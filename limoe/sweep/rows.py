"""Rows of the table of trials, and the table that holds them.

Columns: point, seed, contestant, phase (search, final, ablation), group, fingerprint, kind, modality, layer, step, steps_planned,
alarm_step (of the first alarm), evidence, loss, seconds; then one by swept name, `score/...`, and `early10/...`, `early20/...`,
`early30/...`: the health at that percentage of the budget. Swept values that are not all numbers, all texts or all booleans are
stored as JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from limoe.errors import UserError
from limoe.sweep.role import Phase

SEARCH: Phase = "search"
FINAL: Phase = "final"
FIXED = pa.schema(
    [
        ("point", pa.int64()),
        ("seed", pa.int64()),
        ("contestant", pa.string()),
        ("phase", pa.string()),
        ("group", pa.string()),
        ("fingerprint", pa.string()),
        ("kind", pa.string()),
        ("modality", pa.string()),
        ("layer", pa.int64()),
        ("step", pa.int64()),
        ("steps_planned", pa.int64()),
        ("alarm_step", pa.int64()),
        ("evidence", pa.string()),
        ("loss", pa.float64()),
        ("seconds", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Row:
    """One trial of the table; absent names are not in `values`, absent figures not in `scores` and `early` ("10/loss")."""

    point: int
    seed: int
    kind: str
    values: dict[str, Any]
    loss: float | None = None
    contestant: str = "limoe"
    phase: Phase = SEARCH
    group: str = ""
    fingerprint: str = ""
    modality: str | None = None
    layer: int | None = None
    step: int = 0
    steps_planned: int = 1
    alarm_step: int | None = None
    evidence: str = ""
    seconds: float = 0.0
    scores: dict[str, float] = field(default_factory=dict)
    early: dict[str, float] = field(default_factory=dict)


def to_table(rows: Iterable[Row], space: Mapping[str, Any] | None = None) -> pa.Table:
    """Rows as a table, in the order of point, seed and fingerprint; `space` goes into its metadata."""
    listed = sorted(rows, key=lambda row: (row.phase != SEARCH, row.point, row.seed, row.fingerprint))
    columns = {name: pa.array([getattr(row, name) for row in listed], FIXED.field(name).type) for name in FIXED.names}
    fields = list(FIXED)
    for name in _names(row.values for row in listed):
        column, is_json = _column([(name in row.values, row.values.get(name)) for row in listed])
        columns[name] = column
        fields.append(pa.field(name, column.type, metadata={"swept": "json" if is_json else "plain"}))
    for prefix, part in (("score/", "scores"), ("early", "early")):
        for name in sorted(_names(getattr(row, part) for row in listed)):
            columns[prefix + name] = pa.array([getattr(row, part).get(name) for row in listed], pa.float64())
            fields.append(pa.field(prefix + name, pa.float64()))
    metadata = {"space": json.dumps(space)} if space is not None else None
    return pa.table(columns, schema=pa.schema(fields, metadata=metadata))


def to_rows(table: pa.Table) -> list[Row]:
    """The table's rows; UserError names a column that it lacks."""
    if missing := [name for name in ("point", "seed", "kind", "loss") if name not in table.column_names]:
        raise UserError(f"the table of trials has no column {missing[0]}; it must be one that a sweep has written")
    swept = {part.name: (part.metadata or {}).get(b"swept") for part in table.schema}
    return [_read_row(record, swept) for record in table.to_pylist()]


def _names(parts: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for part in parts for name in part))


def _column(cells: list[tuple[bool, Any]]) -> tuple[pa.Array, bool]:
    """An array of the values that are there, and whether they had to be written as JSON."""
    kinds = {type(value) for there, value in cells if there}
    plain = {frozenset({bool}): pa.bool_(), frozenset({int}): pa.int64(), frozenset({str}): pa.string()}
    numbers = pa.float64() if kinds <= {int, float} else None
    stored = plain.get(frozenset(kinds), numbers)
    if stored is not None:
        return pa.array([value if there else None for there, value in cells], stored), False
    return pa.array([json.dumps(value, sort_keys=True) if there else None for there, value in cells], pa.string()), True


def _read_row(record: dict[str, Any], swept: Mapping[str, bytes | None]) -> Row:
    values = {}
    for name, how in swept.items():
        if how is not None and record[name] is not None:
            values[name] = json.loads(record[name]) if how == b"json" else record[name]
    figures = {name: value for name, value in record.items() if value is not None and name not in values}
    return Row(
        **{name: record[name] for name in FIXED.names if name in record and name != "loss"},
        values=values,
        loss=record["loss"] if record["loss"] is not None and math.isfinite(record["loss"]) else None,
        scores={name.removeprefix("score/"): value for name, value in figures.items() if name.startswith("score/")},
        early={name.removeprefix("early"): value for name, value in figures.items() if name.startswith("early")},
    )
