"""The compare stage over planted evidence: its files, their bytes, the truth of its verdict, and what it refuses."""

import json
from base64 import b64encode

import pytest
from evalkit import tiny_analysis, tiny_params
from reportkit import plant, plant_averaged

from limoe.errors import UserError
from limoe.files import write_json
from limoe.report.routing_analysis import headline
from limoe.stages import compare

PARAMS = tiny_params()


def reports(paths):
    return {path.name: path.read_bytes() for path in paths.report.iterdir()}


def test_the_three_outs_and_the_timing_beside_them(tmp_path, capsys):
    paths = plant(tmp_path, PARAMS)
    write_json(
        paths.timing("train-limoe"), {"seconds": 12.5, "step_ms_median": 321.5, "peak_rss_mb": 777, "mlflow_run_id": "abc"}
    )
    compare.run(PARAMS, paths)
    found = reports(paths)
    assert set(found) == {"metrics.json", "report.md", "report.html", "timing.md"}
    rows = json.loads(found["metrics.json"])
    assert all(list(row) == ["high", "low", "metric", "model", "n", "set", "value"] for row in rows)
    assert {row["model"] for row in rows} == {"limoe", "dense", "clip"}
    assert b"321.5" in found["timing.md"]
    for name in ("report.md", "report.html", "metrics.json"):
        assert b"321.5" not in found[name]
        assert b"abc" not in found[name].split(b"plotly")[0]
    said = capsys.readouterr().out
    assert "LIMoE was not told apart from the dense tower" in " ".join(said.split())
    assert "321.5" in said


def test_the_report_shows_how_limoe_routes_if_that_was_recorded(tmp_path):
    paths = plant(tmp_path, PARAMS)
    found = tiny_analysis(tmp_path / "elsewhere")
    found.save(paths.evaluate("limoe") / "routing")
    compare.run(PARAMS, paths)
    page = (paths.report / "report.html").read_text(encoding="utf-8").split("<script>")[0]
    assert headline(found.numbers) in page
    assert all(b64encode(strip).decode() in page for strip in found.strips.values())
    assert 'id="lost-text"' in page


def test_equal_evidence_gives_equal_bytes_whatever_the_clock_said(tmp_path):
    first, second = plant(tmp_path / "a", PARAMS), plant(tmp_path / "b", PARAMS)
    write_json(first.timing("train-limoe"), {"seconds": 1})
    for paths in (first, second):
        compare.run(PARAMS, paths)
    outs = [{name: content for name, content in reports(paths).items() if name != "timing.md"} for paths in (first, second)]
    assert outs[0] == outs[1]


@pytest.mark.parametrize(
    "ours, sentence",
    [
        (0.7, "LIMoE beat the dense tower in 2 of 5 tests and lost none"),
        (0.1, "LIMoE lost to the dense tower in 2 of 5 tests and won none"),
    ],
    ids=["win", "loss"],
)
def test_the_report_says_who_won(tmp_path, ours, sentence):
    paths = plant(tmp_path, PARAMS, scenes={"limoe": ours, "dense": 0.4, "clip": ours})
    compare.run(PARAMS, paths)
    assert sentence in (paths.report / "report.md").read_text(encoding="utf-8")
    assert sentence in (paths.report / "report.html").read_text(encoding="utf-8")


def test_the_report_shows_averaged_weights_if_there_are_any(tmp_path):
    paths = plant(tmp_path, PARAMS)
    compare.run(PARAMS, paths)
    assert "train.ema" not in (paths.report / "report.md").read_text(encoding="utf-8").split("Settings of the trainings")[0]
    plant_averaged(paths, "limoe", 0.45)
    compare.run(PARAMS, paths)
    report = (paths.report / "report.md").read_text(encoding="utf-8")
    (row,) = [line for line in report.splitlines() if "last weights: 30.0%" in line]
    assert "45.0%" in row
    assert "Averaged weights (`train.ema`) on the test sets; no test was made" in report


def test_nothing_is_written_when_evidence_is_missing(tmp_path):
    paths = plant(tmp_path, PARAMS)
    (paths.evaluate("clip") / "items.parquet").unlink()
    with pytest.raises(UserError, match=r"items\.parquet: no such file"):
        compare.run(PARAMS, paths)
    assert not paths.report.exists()
