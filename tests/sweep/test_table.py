"""The table of trials: what a directory of trials gives, and what a file keeps."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tablekit import SPACE, row

from limoe.errors import UserError
from limoe.sweep.axes import Axis, guess_axes, parse_axes
from limoe.sweep.early import early_health, read_metrics
from limoe.sweep.outcome import Outcome, write_outcome
from limoe.sweep.role import Role, write_role
from limoe.sweep.rows import Row, to_rows, to_table
from limoe.sweep.spec import TrialSpec, create
from limoe.sweep.table import collect, read, space_of, write

METRICS = [
    {"step": step, "contrastive": 4.0, "gradient_norm": float(step), "block1/text_placed": 0.9, "block3/text_placed": step / 100}
    for step in (2, 4, 6, 8, 10, 20)
]


def trial(
    folder: Path, name: str, values: dict[str, Any], outcome: Outcome | None, role: Role | None = None, seed: int = 0
) -> None:
    directory = folder / "trials" / name
    create(directory, TrialSpec("limoe", values, seed, {"train": {"loss": "softmax", "batch": 16, "steps": 100}}, reports=1))
    (directory / "metrics.jsonl").write_text("\n".join(json.dumps(one) for one in METRICS) + '\n{"step": 30, "contr')
    if outcome is not None:
        write_outcome(directory, outcome)
    if role is not None:
        write_role(directory, role)


def test_collects_ended_trials_with_role_values_and_early_health(tmp_path: Path) -> None:
    collapse = {"name": "text-collapse@block3", "step": 40, "evidence": "e"}
    ended = Outcome("collapsed", 100, "text died", 100, 9.5, "text", 3, [collapse], 2.5, {"top1/val": 0.25})
    trial(tmp_path, "aa", {"train.lr": 1e-3}, ended, Role(4, "search"), seed=2)
    trial(tmp_path, "bb", {"train.lr": 2e-3}, None, Role(5, "search"))
    (tmp_path / "trials" / "cc").mkdir()
    (tmp_path / "sweep.json").write_text(json.dumps({"space": SPACE}))
    table = collect(tmp_path)
    (only,) = to_rows(table)
    assert (only.point, only.seed, only.phase, only.kind, only.modality, only.layer) == (4, 2, "search", "collapsed", "text", 3)
    assert (only.alarm_step, only.loss, only.seconds, only.fingerprint) == (40, 2.5, 9.5, "aa")
    assert only.values == {"train.lr": 1e-3}
    assert only.scores == {"top1/val": 0.25}
    assert space_of(table) == SPACE
    assert table.column("early10/loss").to_pylist() == [pytest.approx(4 / math.log(16))]


def test_without_roles_equal_values_are_one_point(tmp_path: Path) -> None:
    done = Outcome("ok", 100, "", 100, loss=1.0)
    for name, lr, seed in (("aa", 1e-3, 0), ("bb", 2e-3, 0), ("cc", 1e-3, 1)):
        trial(tmp_path, name, {"train.lr": lr}, done, seed=seed)
    points = {one.fingerprint: one.point for one in to_rows(collect(tmp_path))}
    assert points["aa"] == points["cc"] != points["bb"]
    assert sorted(set(points.values())) == [0, 1]


def test_early_health_is_the_mean_of_the_last_twentieth_before_each_moment() -> None:
    found = early_health(METRICS, guess=math.log(16), steps=100, reached=25)
    assert found["10/gradient_norm"] == (6 + 8 + 10) / 3  # steps above 5 and up to 10
    assert found["10/text_placed_min"] == pytest.approx((0.06 + 0.08 + 0.10) / 3)  # the worse of two blocks
    assert found["20/gradient_norm"] == 20
    assert found["10/loss"] == pytest.approx(4.0 / math.log(16))
    assert not any(name.startswith("30/") for name in found)


def test_early_health_takes_the_last_row_before_where_rows_are_rare_and_leaves_out_what_is_not_finite() -> None:
    rare = [{"step": 1, "contrastive": math.inf, "gradient_norm": 2.0}]
    assert early_health(rare, guess=math.log(16), steps=100, reached=100) == {f"{p}/gradient_norm": 2.0 for p in (10, 20, 30)}
    assert early_health([], guess=math.log(16), steps=100, reached=100) == {}


def test_metrics_of_a_killed_trial_lose_only_their_last_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert [one["step"] for one in read_metrics(path)] == [1, 2]


@pytest.mark.parametrize(
    "column",
    [[1, 2, 3], [1, 2.5, 3], ["a", "b", "a"], [True, False, True], [None, 1, "x"], [[1, 3], [1], "last-2"], [True, 1, 2]],
)
def test_a_file_keeps_every_value_and_its_absence(tmp_path: Path, column: list[Any]) -> None:
    rows = [replace(row(i), values={"x": value}, early={"10/loss": 0.5}, scores={"r1": 1.0}) for i, value in enumerate(column)]
    rows.append(replace(row(9), values={}))
    write(to_table(rows, SPACE), tmp_path / "t.parquet")
    back = read(tmp_path / "t.parquet")
    assert to_rows(back) == rows
    assert space_of(back) == SPACE


def test_rows_stand_in_the_order_of_points_and_seeds_with_the_search_first() -> None:
    rows = [row(1, seed=1000, phase="final"), row(2), row(0, seed=1), row(0)]
    assert [(one.point, one.seed) for one in to_rows(to_table(rows))] == [(0, 0), (0, 1), (2, 0), (1, 1000)]


def test_an_empty_table_and_a_loss_that_is_not_finite_are_read() -> None:
    assert to_rows(to_table([])) == []
    assert to_rows(to_table([row(0, loss=math.nan)]))[0].loss is None


def test_what_is_no_table_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "absent.parquet")
    (tmp_path / "bad.parquet").write_text("no")
    with pytest.raises(UserError, match="not a Parquet file"):
        read(tmp_path / "bad.parquet")
    with pytest.raises(UserError, match="no column point"):
        to_rows(pa.table({"x": [1]}))


def test_axes_place_values_in_the_unit_interval() -> None:
    lr, experts, factor = parse_axes(SPACE)
    assert [lr.unit(x) for x in (1e-4, 1e-3, 1e-2)] == [0, 0.5, 1]
    assert [experts.unit(x) for x in (8, 16, 32)] == [0, 0.5, 1]
    assert factor.unit(1.25) == 0.25
    assert math.isnan(lr.unit(None))
    assert math.isnan(experts.unit(9))
    assert [axis.value(axis.unit(x)) for axis, x in ((lr, 3e-3), (experts, 16), (factor, 1.7))] == [pytest.approx(3e-3), 16, 1.7]


def test_axes_of_a_document() -> None:
    document = {
        "b": {"choices": [512, 128]},
        "g": {"equal": "b"},
        "r": {"choices": ["x", "y"], "when": {"b": [128]}},
        "w": {"low": 0, "high": 10, "int": True},
    }
    batch, router, warmup = parse_axes(document)
    assert (batch.choices, batch.numeric) == ((128, 512), True)
    assert (router.numeric, router.conditional) == (False, True)
    assert (warmup.integer, warmup.value(0.44)) == (True, 4)


def test_axes_are_guessed_where_no_document_says() -> None:
    points = [{"lr": 10.0 ** -(1 + i / 3), "batch": (128, 256)[i % 2], "same": 1, **({"x": "y"} if i else {})} for i in range(9)]
    points[1]["x"] = "z"
    lr, batch, x = guess_axes(points)
    assert (lr.name, lr.log, lr.high) == ("lr", True, 0.1)
    assert batch == Axis("batch", choices=(128, 256))
    assert (x.choices, x.conditional) == (("z", "y"), True)


def test_a_row_has_no_room_for_unknown_columns() -> None:
    with pytest.raises(TypeError):
        Row(point=0, seed=0, kind="ok", values={}, unknown=1)  # type: ignore[call-arg]
