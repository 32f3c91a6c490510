"""`python -m benchmarks.gpu` goes through its parts on a processor, without what a bare machine lacks; no part spoils a run."""

from __future__ import annotations

import doctest
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from trainkit import prepare_shapes

from benchmarks import gpu_train
from benchmarks.gpu import OutOfTime, at_most, check, full, main, run, tiny
from benchmarks.gpu_report import to_markdown
from benchmarks.gpu_steps import allocated, one_bucket, operations, several
from benchmarks.harness import Subject
from benchmarks.layers import CAPTION_QUANTILES
from benchmarks.step import Drawn, config_of
from limoe.config import CONTESTANTS, Params
from limoe.errors import UserError
from limoe.model.flops import clip_flops, tower_flops

CPU = torch.device("cpu")
ABSENT = "prefect mlflow dvc optuna webdataset plotly ruamel fastapi emoji resvg_py"
BARE = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in absent:
            raise ModuleNotFoundError(f"{name} is not on this machine", name=name)
absent = sys.argv.pop(1).split()
sys.meta_path.insert(0, Refuse())
runpy.run_module("benchmarks.gpu", run_name="__main__")
"""


@pytest.fixture(scope="module")
def twin(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run on a processor, without the absent packages, has written."""
    folder = tmp_path_factory.mktemp("gpu")
    path, data = folder / "out" / "gpu.jsonl", prepare_shapes(folder).prepared
    command = [sys.executable, "-c", BARE, ABSENT, "--tiny", "--data", str(data), "--json", str(path)]
    subprocess.run(command, cwd=project, env={**os.environ, "PYTHONPATH": str(project)}, check=True, capture_output=True)
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_part_comes_to_its_end(twin: Path) -> None:
    lines = read(twin)
    assert [line["part"] for line in lines] == ["card", "layer", "large", "default", "loss", "train", "train", "train"]
    assert [line["error"] for line in lines if "error" in line] == []


def test_steps_are_told_by_the_ceiling_of_the_same_device(twin: Path) -> None:
    for line in read(twin):
        if "speeds" not in line:
            continue
        own = {row["name"]: row["median"] / row["work"] for row in line["rows"]}
        assert line["speeds"].keys() == own.keys() == set(CONTESTANTS)
        for name, speed in line["speeds"].items():
            assert speed["pairs_per_s"] == pytest.approx(16 / own[name], rel=1e-3)
            assert speed["tokens_per_s"] == pytest.approx(speed["pairs_per_s"] * (4 + fmean(CAPTION_QUANTILES)), rel=1e-3)
            flops = 3e9 * line["gflops_per_pair_forward"][name] * speed["pairs_per_s"]
            assert speed["mfu"] == pytest.approx(flops / (1e12 * speed["ceiling_tflops"]), rel=0.1, abs=1e-4)
        assert 0 < line["placed"] <= 1
        assert sum(each["share"] for each in line["hottest"]) <= 1.0001


def test_contestants_train_alike(twin: Path) -> None:
    trained = [line for line in read(twin) if line["part"] == "train"]
    assert [line["contestant"] for line in trained] == list(CONTESTANTS)
    assert {(line["steps"], line["planned"], line["samples"]) for line in trained} == {(4, 4, 64)}
    costs = [line["gflops_per_pair_forward"] for line in trained]
    assert max(costs) < 1.06 * min(costs)
    for line in trained:
        assert line["scores"].keys() == {"loss", "loss/val-scenes", "r1/val-scenes"}
        assert (line["text_placed"] is None) == (line["contestant"] != "limoe")


def test_the_page_tells_all_of_it(twin: Path) -> None:
    page = to_markdown(twin)
    for part in ("# ", "## The sparse layer", "## A training step of B/16", "## The contrastive loss", "## Trainings"):
        assert f"\n{part}" in f"\n{page}"
    for line in read(twin):
        for row in line.get("rows", []):
            assert f"| {row['ratio']:.3f} |" in page
    assert page.count("| clip | 4 | 64 |") == 1
    assert "Not measured" not in page


def parts(order: list[str]) -> dict[str, Any]:
    """One that is fine, one that breaks after it found something, one that hangs, one that swallows what it can and hangs."""

    def fine(seconds: float) -> Iterator[dict[str, Any]]:
        order.append(f"fine {seconds:g}")
        yield {"found": 1}

    def broken(seconds: float) -> Iterator[dict[str, Any]]:
        yield {"found": 2}
        raise RuntimeError("two\nlines")

    def hangs(seconds: float) -> Iterator[dict[str, Any]]:
        try:
            while True:
                time.sleep(0.001)
        except Exception:  # what a library does that goes on without a compiler
            order.append("swallowed")
        yield {}

    return {"fine": fine, "broken": broken, "hangs": hangs, "last": fine}


def test_a_part_that_breaks_or_hangs_is_told_and_the_next_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr("benchmarks.gpu.SECONDS", {"fine": 15.0, "hangs": 0.05})
    run(parts(order), tmp_path / "out.jsonl", 100.0, CPU)
    found = [(line["part"], line.get("found"), line.get("error")) for line in read(tmp_path / "out.jsonl")]
    assert found == [
        ("fine", 1, None),
        ("broken", 2, None),
        ("broken", None, "RuntimeError: two lines"),
        ("hangs", None, "OutOfTime: it took longer than 0 s"),
        ("last", 1, None),
    ]
    assert order[0] == "fine 15"
    assert 90 < float(order[1].removeprefix("fine ")) <= 100  # what is left, for a part without a limit of its own
    page = to_markdown(tmp_path / "out.jsonl")
    assert "- broken: RuntimeError: two lines\n- hangs: OutOfTime" in page


def test_what_was_found_is_on_disk_before_the_next_part(tmp_path: Path) -> None:
    seen = []

    def second(seconds: float) -> Iterator[dict[str, Any]]:
        seen.extend(read(tmp_path / "out.jsonl"))
        yield {}

    run({"first": lambda _: iter([{"found": 3}]), "second": second}, tmp_path / "out.jsonl", 9.0, CPU)
    assert [line["found"] for line in seen] == [3]


def test_a_limit_ends_with_its_body() -> None:
    with pytest.raises(OutOfTime), at_most(9.0), at_most(0.02):
        time.sleep(5)
    with at_most(0.02):
        pass
    time.sleep(0.05)


def test_a_machine_that_cannot_measure_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    check(CPU, is_tiny=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--data", str(tmp_path), "--json", str(tmp_path / "out.jsonl")]) == 2
    assert "no GPU that torch can use" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()
    monkeypatch.setattr(torch, "__version__", "2.9.1+cu130")
    with pytest.raises(UserError, match=r"torch 2\.9\.1\+cu130 is too old: benchmarks\.gpu needs 2\.11"):
        check(torch.device("cuda"), is_tiny=False)


def test_the_full_run_is_the_issues() -> None:
    setting = full()
    assert (setting.case.shape.tokens, setting.case.shape.experts, setting.case.shape.patches) == (50_000, 32, 196)
    assert setting.pairs == 32_768
    for params, side in ((setting.large, 224), (setting.trained, 128)):
        tower = params.model.tower
        assert (tower.width, tower.depth, tower.heads, tower.patch_size, tower.image_size) == (768, 12, 12, 16, side)
        assert tower.text_length >= max(CAPTION_QUANTILES)
        width = config_of(params, "clip").text_width
        assert width is not None
        dense = tower_flops(tower, CAPTION_QUANTILES)
        assert clip_flops(tower, width, params.model.clip.text_depth) == pytest.approx(dense, rel=0.05)
        assert tower_flops(tower, CAPTION_QUANTILES, params.model.moe) == pytest.approx(dense, rel=0.02)


def test_a_bucket_holds_any_batch_of_such_captions(params: Params) -> None:
    alike = params.model_copy(update={"train": params.train.model_copy(update={"batch": 16})})
    assert one_bucket(alike, [2, 4]).train.bucket == 64  # 16 * 3, and four deviations of 4
    assert one_bucket(alike, [2, 4, 4]).train.bucket == 128
    bucket = one_bucket(params, CAPTION_QUANTILES).train.bucket
    drawn = torch.tensor(CAPTION_QUANTILES)[torch.randint(len(CAPTION_QUANTILES), (2000, params.train.batch))].sum(1)
    assert bucket * 0.6 < int(drawn.min())
    assert int(drawn.max()) <= bucket < 1.2 * float(drawn.double().mean()) + 64


def test_drawn_batches_share_their_pictures_on_whatever_device() -> None:
    loader = Drawn(tiny().default, torch.device("meta"))
    first, second = next(loader), next(loader)
    assert first.images_BCHW is second.images_BCHW  # a copy each would fill the card
    assert first.ids_N is not second.ids_N


def test_a_sample_is_several_steps_and_a_profile_names_them() -> None:
    ran = []
    several(Subject("a", lambda: ran.append(1)), 3).run()
    assert len(ran) == 3
    matrix = torch.randn(300, 300)
    found = operations(lambda: matrix @ matrix @ matrix, CPU)
    assert (found[0]["name"], found[0]["calls"]) == ("aten::mm", 2)
    assert found[0]["share"] > 0.3
    assert allocated(CPU) == 0


def test_the_examples_are_true() -> None:
    results = doctest.testmod(gpu_train)
    assert (results.attempted, results.failed) == (1, 0)


FAKE = """#!/usr/bin/env bash
echo "$*" >>"$CALLS"
case "$*" in
  *"-m benchmarks.gpu "*) while [ "$1" != --json ]; do shift; done; echo '{{}}' >"$2"; exit {code} ;;
  *gpu_report*) echo page ;;
esac
"""


@pytest.mark.parametrize("code", [0, 1])
def test_the_script_installs_measures_and_tells_whatever_happened(project: Path, tmp_path: Path, code: int) -> None:
    fake = tmp_path / "python"
    fake.write_text(FAKE.format(code=code))
    fake.chmod(0o755)
    env = {**os.environ, "PYTHON": str(fake), "OUT": str(tmp_path / "out"), "PACK": "pack", "CALLS": str(tmp_path / "calls")}
    done = subprocess.run(["bash", "benchmarks/gpu.sh", "--tiny"], cwd=project, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, "page\n"), done.stderr
    installs, measures, tells = (tmp_path / "calls").read_text().splitlines()
    assert installs.startswith("-m pip install --quiet --no-index --no-deps")
    assert installs.endswith(" pack/wheels/*.whl")
    assert measures == f"-m benchmarks.gpu --data pack/prepared --json {tmp_path}/out/gpu.jsonl --tiny"
    assert tells == f"-m benchmarks.gpu_report {tmp_path}/out/gpu.jsonl"
    assert (tmp_path / "out" / "gpu.md").read_text() == "page\n"
