"""The table of a sweep's trials: one row a trial, from the trial directories, which are the truth; Parquet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from limoe.errors import UserError
from limoe.files import atomic_file, read_json, sha256_json
from limoe.sweep.early import early_health, read_metrics
from limoe.sweep.role import Role, read_role
from limoe.sweep.rows import SEARCH, Row, to_table
from limoe.sweep.trial import Outcome, TrialSpec, read_outcome, read_spec
from limoe.train.chance import guessing_loss


def collect(folder: Path) -> pa.Table:
    """The table of all trials with an outcome under `folder`/trials; its metadata hold the space of sweep.json, if there is one.

    Which point, phase and group a trial belongs to says its role; without one, equal values are one point of a search.
    """
    found = []
    for directory in sorted(path for path in (folder / "trials").glob("*") if (path / "trial.json").is_file()):
        outcome = read_outcome(directory)
        if outcome is not None:
            found.append((directory, read_spec(directory), outcome))
    points = sorted({sha256_json(spec.values) for _, spec, _ in found})
    return to_table([_row(*one, points.index(sha256_json(one[1].values))) for one in found], _space(folder))


def space_of(table: pa.Table) -> dict[str, Any] | None:
    """The space's document that the table was searched over, if its metadata have one."""
    text = (table.schema.metadata or {}).get(b"space")
    return None if text is None else dict(json.loads(text))


def read(path: Path) -> pa.Table:
    """The table in a Parquet file; UserError if there is none."""
    try:
        return pq.read_table(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: not a Parquet file ({' '.join(str(error).split())})") from None


def write(table: pa.Table, path: Path) -> None:
    """Write the table to `path` as Parquet, atomically."""
    with atomic_file(path) as handle:
        pq.write_table(table, handle)


def _row(folder: Path, spec: TrialSpec, outcome: Outcome, number: int) -> Row:
    role = read_role(folder) or Role(number, SEARCH)
    metrics, steps = read_metrics(folder / "metrics.jsonl"), max(1, outcome.steps_planned)
    guess = guessing_loss(spec.train["loss"], spec.train["batch"])
    reached = max([outcome.step, *(row["step"] for row in metrics[-1:])])
    return Row(
        point=role.point,
        seed=spec.seed,
        kind=outcome.kind,
        values=dict(spec.values),
        loss=outcome.loss,
        contestant=spec.contestant,
        phase=role.phase,
        group=role.group,
        fingerprint=folder.name,
        modality=outcome.modality,
        layer=outcome.layer,
        step=outcome.step,
        steps_planned=outcome.steps_planned,
        alarm_step=min((alarm["step"] for alarm in outcome.alarms), default=None),
        evidence=outcome.evidence,
        seconds=outcome.seconds,
        scores=dict(outcome.scores),
        early=early_health(metrics, guess, steps, reached),
    )


def _space(folder: Path) -> dict[str, Any] | None:
    path = folder / "sweep.json"
    return read_json(path).get("space") or None if path.is_file() else None
