"""`limoe sensitivity`: from a folder or a file, and the recipe written where a person would write it."""

from __future__ import annotations

import difflib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tablekit import row
from typer.testing import CliRunner

from limoe.cli import app
from limoe.config import Params
from limoe.errors import UserError
from limoe.files import write_json
from limoe.sensitivity import apply_recommendation
from limoe.sweep.rows import to_table
from limoe.sweep.sensitivity import analyse
from limoe.sweep.table import write

SPACE = {
    "train.lr": {"low": 1e-4, "high": 1e-2, "log": True},
    "train.batch": {"choices": [128, 512]},
    "model.moe.group_pairs": {"equal": "train.batch"},
    "train.steps": {"choices": [400, 1700]},
}


@pytest.fixture
def copy(tmp_path: Path, project: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text((project / "params.yaml").read_text())
    return path


def table(contestant: str = "limoe", **values: Any) -> Any:
    best = {"train.lr": 0.00123456, **values}
    recipes = (best, {**best, "train.lr": 9e-3})
    rows = [replace(row(i, loss=3.0 + i, contestant=contestant), values=recipe) for i, recipe in enumerate(recipes)]
    return to_table(rows, SPACE)


def applied(params: Path, contestant: str = "limoe", **values: Any) -> tuple[dict, list[str]]:
    known = table(contestant, **values)
    return apply_recommendation(analyse(known), known, params)


def changed_lines(before: str, after: str) -> list[str]:
    return [line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line[0] in "+-"]


def test_the_recipe_is_written_and_comments_stay(copy: Path) -> None:
    before = copy.read_text()
    changed, remarks = applied(copy, **{"train.batch": 512, "train.steps": 400})
    assert changed == {"train.lr": (0.003, 0.001235), "train.batch": (256, 512), "model.moe.group_pairs": (256, 512)}
    after = Params.load(copy)
    assert (after.train.lr, after.train.batch, after.model.moe.group_pairs, after.train.steps) == (0.001235, 512, 512, 1700)
    lines = changed_lines(before, copy.read_text())
    assert len(lines) == 6
    assert all(line.split("#")[1] == other.split("#")[1] for line, other in zip(lines[::2], lines[1::2], strict=True))
    assert any("train.steps = 400 is left alone: it belongs to the budget" in one for one in remarks)
    assert any("400 steps, and train.steps is 1700" in one for one in remarks)


def test_another_contestants_recipe_goes_into_its_changes(copy: Path) -> None:
    changed, remarks = applied(copy, "dense", **{"train.batch": 512, "train.weight_decay": 0.1, "model.tower.width": 32})
    assert set(changed) == {"contestants.dense.lr", "contestants.dense.weight_decay"}
    after = Params.load(copy)
    assert after.train_for("dense").lr == 0.001235
    assert after.train.lr == 0.003
    assert sum("the contestants share it" in one for one in remarks) == 3  # batch, the groups tied to it, and the width


def test_a_part_of_a_section_goes_into_a_contestants_changes_and_what_all_share_does_not(copy: Path) -> None:
    swept = {"train.lr_scale.embeddings": 0.5, "train.mixture.emoji": 0.7, "train.rand_augment.magnitude": 3}
    changed, remarks = applied(copy, "dense", **swept)
    assert set(changed) == {"contestants.dense.lr", "contestants.dense.lr_scale.embeddings"}
    scales = Params.load(copy).train_for("dense").lr_scale
    assert (scales.embeddings, scales.router) == (0.5, 1.0)
    assert sum("the contestants share it" in one for one in remarks) == 2


def test_what_limoe_changes_of_its_own_is_changed_there(copy: Path) -> None:
    copy.write_text(copy.read_text().replace("  limoe: {}", "  limoe: {lr: 0.002}"))
    changed, _ = applied(copy)
    assert changed == {"contestants.limoe.lr": (0.002, 0.001235)}


@pytest.mark.parametrize(
    "name, spec, value, written",
    [
        ("train.beta2", {"low": 0.9, "high": 0.99999}, 0.99996, 0.99996),  # four digits would be 1.0, which is not allowed
        ("train.init_scale", {"low": 1.0, "high": 20.0}, 12.34567, 12.35),
        ("model.moe.tau_text", {"choices": [1.0986123, 2.0794415]}, 2.0794415, 2.0794415),  # a choice stays what it is
        ("train.init_scale", {"low": 1.00005, "high": 2.00005, "step": 0.5}, 1.50005, 1.50005),
    ],
)
def test_a_number_is_shortened_within_its_range_alone(
    copy: Path, name: str, spec: dict[str, Any], value: float, written: float
) -> None:
    rows = [replace(row(i, loss=3.0 + i), values={name: value}) for i in range(2)]
    known = to_table(rows, {name: spec})
    changed, _ = apply_recommendation(analyse(known), known, copy)
    assert changed[name][1] == written


def test_a_recipe_found_beside_other_settings_is_remarked_on(copy: Path) -> None:
    folder = copy.parent / "runs" / "sweeps" / "stress"
    write(table(), folder / "trials.parquet")
    base = Params.load(copy).model_dump(mode="json")
    base["model"]["moe"]["experts"], base["train"]["lr"], base["train"]["steps"] = 64, 0.5, 400
    write_json(folder / "sweep.json", {"params": base})
    result = CliRunner().invoke(app, ["sensitivity", "--params", str(copy), "--apply"])
    assert result.exit_code == 0, result.output
    remark = next(line for line in result.stdout.splitlines() if "the sweep had" in line)
    assert "model.moe.experts = 64 (here " in remark
    assert "train.lr" not in remark  # searched
    assert "train.steps" not in remark  # said already
    write_json(folder / "sweep.json", {"params": Params.load(copy).model_dump(mode="json")})
    assert "the sweep had" not in CliRunner().invoke(app, ["sensitivity", "--params", str(copy), "--apply"]).stdout


def test_values_that_are_there_already_change_nothing(copy: Path) -> None:
    applied(copy)
    before = copy.read_text()
    assert applied(copy)[0] == {}
    assert copy.read_text() == before


def test_a_recipe_that_params_refuse_leaves_the_file(copy: Path) -> None:
    before = copy.read_text()
    with pytest.raises(UserError, match="with the recommendation"):
        applied(copy, **{"model.moe.k": 99})
    with pytest.raises(UserError, match="nothing to recommend"):
        known = to_table([row(0, "diverged", None)])
        apply_recommendation(analyse(known), known, copy)
    assert copy.read_text() == before


def test_the_command_reads_a_file_and_applies_it(copy: Path) -> None:
    file = copy.parent / "trials.parquet"
    write(table(), file)
    result = CliRunner().invoke(app, ["sensitivity", str(file), "--params", str(copy)])
    assert result.exit_code == 0, result.output
    assert "train.lr" in result.stdout
    assert "--apply" in result.stderr
    result = CliRunner().invoke(app, ["sensitivity", str(file), "--params", str(copy), "--apply", "--json"])
    assert json.loads(result.stdout)["recommendation"]["robust"]["point"] == 0
    assert "next: dvc repro" in result.stderr
    assert Params.load(copy).train.lr == 0.001235


def test_a_wrong_name_is_answered_with_the_nearest(copy: Path) -> None:
    result = CliRunner().invoke(app, ["sensitivity", "--params", str(copy)])
    assert "no sweep has run here" in result.stderr
    for name in ("stress", "wide"):
        write(table(), copy.parent / "runs" / "sweeps" / name / "trials.parquet")
    result = CliRunner().invoke(app, ["sensitivity", "stres", "--params", str(copy)])
    assert result.exit_code == 2
    assert "did you mean stress?" in result.stderr
    result = CliRunner().invoke(app, ["sensitivity", "--params", str(copy)])
    assert "which sweep? stress, wide" in result.stderr


@pytest.mark.parametrize("kind,said", [("ablation", "is an ablation"), ("seeds", "is of further seeds")])
def test_what_is_no_sweep_is_told_from_one_and_left_alone(copy: Path, kind: str, said: str) -> None:
    folder = copy.parent / "runs" / "sweeps" / "taken-apart"
    write(table(), folder / "trials.parquet")
    write_json(folder / "sweep.json", {"kind": kind})
    before = (folder / "trials.parquet").read_bytes()
    for name, sentence in ((["taken-apart"], said), ([], "no sweep has run here")):
        result = CliRunner().invoke(app, ["sensitivity", *name, "--params", str(copy)])
        assert result.exit_code == 2
        assert sentence in result.stderr
    assert (folder / "trials.parquet").read_bytes() == before
    assert {path.name for path in folder.iterdir()} == {"trials.parquet", "sweep.json"}


def test_a_sweeps_report_is_written_into_its_folder(copy: Path) -> None:
    folder = copy.parent / "runs" / "sweeps" / "stress"
    write(table(), folder / "trials.parquet")
    result = CliRunner().invoke(app, ["sensitivity", "--params", str(copy)])
    assert result.exit_code == 0, result.output
    assert (folder / "report.html").is_file()
    assert json.loads((folder / "sensitivity.json").read_text())["counts"]["trials"] == 2
