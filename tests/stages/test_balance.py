"""The balance stage on a set that the prepare stage wrote: its outs, their bytes, and a set that is not there."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from preparekit import params_with

from limoe.config import Params
from limoe.errors import UserError
from limoe.paramsfile import read_yaml
from limoe.paths import Paths
from limoe.stages import balance, prepare

OUTS = [
    "balance.html",
    "balance.json",
    "caption_lengths.png",
    "drops.png",
    "report.json",
    "suggestion.json",
    "suggestion.yaml",
    "tokens.png",
]
SETTINGS = (
    "prepare.sources=[scenes]",
    "train.mixture={scenes: 1}",
    "prepare.scenes.pictures=shapes",
    "model.tower.text_length=8",
    "train.batch=32",
    "model.moe.group_pairs=16",
    "model.tower.width=16",
    "model.tower.depth=2",
    "balance.seeds=2",
)
SIZES = (
    "machine.prepare_workers=1",
    "prepare.scenes.train=60",
    "prepare.scenes.val=10",
    "prepare.scenes.test=5",
    "prepare.tokenizer.vocab_size=200",
)


@pytest.fixture(scope="module")
def params() -> Params:
    return params_with(*SETTINGS, *SIZES)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory, params: Params) -> Paths:
    """Paths under a folder in which prepare and balance have run."""
    paths = Paths(tmp_path_factory.mktemp("balance"))
    prepare.run(params, paths)
    balance.run(params, paths)
    return paths


def test_outs_are_all_there_and_say_the_same(paths: Paths) -> None:
    assert sorted(file.name for file in paths.balance.iterdir()) == OUTS
    metrics = json.loads((paths.balance / "balance.json").read_text())
    report = json.loads((paths.balance / "report.json").read_text())
    (total,) = report["scopes"]
    assert total["rows"] == 60
    assert metrics["tokens"]["image"] == 36
    assert metrics["tokens"]["text"] == round(total["lengths"]["mean"], 4)
    assert sum(total["lengths"]["shares"]) == pytest.approx(1)
    assert [split["split"] for split in report["validation"]] == ["val-scenes"]
    assert set(json.loads(paths.timing("balance").read_text())) == {"seconds"}


def test_what_is_suggested_is_the_same_everywhere(paths: Paths, tmp_path: Path) -> None:
    written = json.loads((paths.balance / "suggestion.json").read_text())["model.moe"]
    report = json.loads((paths.balance / "report.json").read_text())
    overlay = read_yaml(paths.balance / "suggestion.yaml")
    assert written == report["suggestion"] == overlay["model"]["moe"]
    assert report["in_use"]["tau_text"] == pytest.approx(math.log(5)), "9 of 32 experts are 5 of 16"
    suggested = tuple(f"model.moe.{name}={value}" for name, value in written.items())
    (tmp_path / "data").mkdir()
    shutil.copytree(paths.prepared, tmp_path / "data" / "prepared")
    asked, taken = (report_of(tmp_path, *changes) for changes in (("model.moe.router=auto",), suggested))
    assert asked["in_use"] == written
    assert taken["untrained"] == asked["untrained"], "auto is the same as the values that it stands for"
    assert taken["suggestion"] == asked["suggestion"] == written, "whoever follows the advice is not advised again"


def report_of(root: Path, *changes: str) -> dict[str, Any]:
    """report.json of a balance stage with these changes on the set prepared under `root`."""
    balance.run(params_with(*SETTINGS, *SIZES, *changes), Paths(root))
    return dict(json.loads((Paths(root).balance / "report.json").read_text()))


def test_the_untrained_model_is_in_the_figures_and_on_the_page(paths: Paths) -> None:
    report = json.loads((paths.balance / "report.json").read_text())
    metrics = json.loads((paths.balance / "balance.json").read_text())
    bpr = next(rule for rule in report["untrained"]["rules"] if rule["name"] == "bpr")
    assert metrics["untrained"]["dropped_text"] == round(bpr["dropped"][0][0], 4)
    assert sum(len(section) for section in metrics.values()) <= 12
    page = (paths.balance / "balance.html").read_text()
    assert "Untrained, it drops" in page
    assert f"{100 * bpr['dropped'][0][0]:.1f}% ± {100 * bpr['dropped'][0][1]:.1f}" in page


def test_without_seeds_no_model_is_looked_at(paths: Paths, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    shutil.copytree(paths.prepared, tmp_path / "data" / "prepared")
    assert report_of(tmp_path, "balance.seeds=0")["untrained"] is None
    assert "untrained" not in json.loads((Paths(tmp_path).balance / "balance.json").read_text())
    assert "no untrained model was looked at" in (Paths(tmp_path).balance / "balance.html").read_text()


def test_the_page_tells_the_warnings_and_needs_nothing_from_outside(paths: Paths) -> None:
    page = (paths.balance / "balance.html").read_text()
    warnings = json.loads((paths.balance / "report.json").read_text())["warnings"]
    assert any("longer than model.tower.text_length = 8" in warning for warning in warnings)
    assert "longer than model.tower.text_length = 8" in page
    assert "default-src 'none'" in page
    assert "<script src" not in page
    assert 'id="text-placed-plot"' in page


def test_pictures_are_pngs_without_a_date(paths: Paths) -> None:
    for name in ("tokens.png", "caption_lengths.png"):
        content = (paths.balance / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert b"tEXt" not in content


def test_a_second_run_writes_the_same_bytes_and_opens_no_test_split(
    params: Params, paths: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {name: (paths.balance / name).read_bytes() for name in OUTS}
    hidden = [shard.rename(shard.with_suffix(".away")) for shard in paths.prepared.glob("test*.parquet")]
    assert hidden
    balance.run(params, paths)
    for shard in hidden:
        shard.rename(shard.with_suffix(".parquet"))
    assert {name: (paths.balance / name).read_bytes() for name in OUTS} == before
    printed = capsys.readouterr().out
    assert "A pair brings 36 image tokens" in printed
    assert "note: a training batch:" in printed
    assert "balance.html" in printed


def test_without_a_prepared_set_it_says_what_to_run(params: Params, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `limoe prepare` first"):
        balance.run(params, Paths(tmp_path))
    assert not Paths(tmp_path).balance.exists()
