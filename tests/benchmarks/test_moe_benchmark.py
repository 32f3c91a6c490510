"""`python -m benchmarks.moe` end to end at tiny shapes: what it measures, prints and writes, and where it looks on a GPU."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

import pytest
import torch
from benchkit import checked, ratios

from benchmarks import moe
from benchmarks.harness import Bench
from benchmarks.layers import Input, Shape
from benchmarks.moe import CASES, FLOOR, KERNELS, Case, cases_of, main, measure_layer
from benchmarks.peers import PEERS
from benchmarks.report import Report
from limoe.config import MoeParams

CPU = torch.device("cpu")


def quick(tmp_path: Path, *arguments: str) -> dict:
    path = tmp_path / "moe.json"
    main(["--quick", "--threads", "1", "--device", "cpu", "--json", str(path), *arguments])
    return checked(path)


def test_every_kernel_of_the_config_stands_beside_dense_and_the_memory_floor(tmp_path: Path) -> None:
    report = quick(tmp_path, "--only", "layer")
    for precision in ("float32", "bfloat16"):
        rows = [row for row in report["rows"] if row["case"].endswith(precision)]
        assert {row["name"] for row in rows} == {"dense", "memory floor", FLOOR, *KERNELS}
        (judged,) = (row for row in rows if row["bar"] is not None)
        assert judged["note"] == "auto"
        assert judged["bar"] == {"float32": 1.15, "bfloat16": 1.25}[precision]
        own = {row["name"]: row["median"] for row in rows}
        assert own[FLOOR] == pytest.approx(own["dense"] + own["memory floor"])  # of two rounds, medians add up
    assert set(KERNELS) | {"auto"} == set(get_args(MoeParams.model_fields["kernel"].annotation))
    assert len([note for note in report["notes"] if note.startswith("dropped: 0.")]) == 2
    assert len(report["skipped"]) == 2  # compiled dense, in each precision


@pytest.mark.filterwarnings("ignore")  # what other people's packages warn of
def test_every_peer_is_measured_or_its_absence_is_told(tmp_path: Path) -> None:
    report = quick(tmp_path, "--only", "peers")
    found = ratios(report, "peers")
    told = {name.split(" (")[0] for name in report["skipped"]}
    for name in PEERS:
        assert (name in told) != ((name, "dense") in found)
        assert name in told or found["ours", name] == pytest.approx(found["ours", "dense"] / found[name, "dense"])


def test_an_absent_peer_is_skipped_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: Input) -> None:
        raise ModuleNotFoundError("No module named 'someone'")

    monkeypatch.setattr(moe, "PEERS", {"someone's": ("someone", absent)})
    monkeypatch.setattr(moe, "peer_subject", lambda given, name: absent(given))
    report = Report("moe", CPU, {})
    moe.measure_peers(report, Bench(CPU, 1, 0), moe.QUICK.shape)
    ((name, reason),) = report.skipped.items()
    assert name.startswith("someone's (peers: ")
    assert reason == "No module named 'someone'; pip install -c constraints.txt -e '.[bench]'"


def test_growth_is_per_token(tmp_path: Path) -> None:
    rows = quick(tmp_path, "--only", "growth")["rows"]
    assert [(row["name"], row["work"], row["bar"]) for row in rows] == [("E 4", 256, None), ("E 8", 512, 1.2)]


def test_where_nothing_compiles_eager_dense_is_the_base(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no C++\ncompiler")

    monkeypatch.setattr(moe, "compiled_dense", broken)
    report = Report("moe", CPU, {})
    measure_layer(report, Bench(CPU, 2, 0), Case(Shape(16, 32, 2, 3000), "cuda", {"float32": 1.0}), "float32", True)
    ((_, reason),) = report.skipped.items()
    assert reason == "RuntimeError: no C++ compiler"
    assert {row.base for row in report.rows} == {"dense"}
    assert {row.bar for row in report.rows} == {None}  # a bar of another device


@pytest.mark.parametrize("device,cases", [("cpu", 2), ("cuda", 3)])
def test_the_gpus_shape_is_for_gpus(device: str, cases: int) -> None:
    options = argparse.Namespace(quick=False, shapes=None)
    assert cases_of(options, device) == list(CASES[:cases])


def test_a_shape_of_the_issue_keeps_its_bars_and_another_has_none() -> None:
    options = argparse.Namespace(quick=False, shapes=[Shape(768, 3072, 32, 8192), Shape(64, 256, 8, 4096)])
    known, other = cases_of(options, "cpu")
    assert known.bars == {"float32": 1.30, "bfloat16": 1.30}
    assert other.bars == {}
