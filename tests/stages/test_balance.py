"""The balance stage on a set that the prepare stage wrote: its outs, their bytes, and a set that is not there."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from preparekit import params_with

from limoe.config import Params
from limoe.errors import UserError
from limoe.paths import Paths
from limoe.stages import balance, prepare

OUTS = ["balance.html", "balance.json", "caption_lengths.png", "report.json", "thresholds.json", "tokens.png"]
SETTINGS = (
    "prepare.sources=[scenes]",
    "train.mixture={scenes: 1}",
    "prepare.scenes.pictures=shapes",
    "model.tower.text_length=8",
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


def test_the_thresholds_are_those_suggested_and_in_use_where_asked_for(params: Params, paths: Paths) -> None:
    written = json.loads((paths.balance / "thresholds.json").read_text())
    report = json.loads((paths.balance / "report.json").read_text())
    suggested = report["scopes"][0]["routing"]
    assert (written["tau_text"], written["tau_image"]) == (suggested["tau_text"], suggested["tau_image"])
    assert report["tau_text"] == pytest.approx(math.log(5)), "9 of 32 experts are 5 of 16"
    balance.run(params_with(*SETTINGS, *SIZES, "model.moe.tau_text=balance"), paths)
    asked = json.loads((paths.balance / "report.json").read_text())
    assert (asked["tau_text"], asked["tau_image"]) == (suggested["tau_text"], report["tau_image"])
    assert not any("model.moe.tau_text" in warning for warning in asked["warnings"])
    assert json.loads((paths.balance / "thresholds.json").read_text()) == written
    balance.run(params, paths)


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
