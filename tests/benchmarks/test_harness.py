"""The measuring measures: turns, warm-up, medians, ratios within rounds, bars."""

from __future__ import annotations

import doctest
import itertools
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from benchmarks import harness, layers
from benchmarks.harness import Bench, Subject, as_in_training, compare, parser, quartiles
from benchmarks.report import Report, cpu_name

CPU = torch.device("cpu")


class Ticking:
    """A clock that subjects move."""

    def __init__(self) -> None:
        self.now, self.ran = 0.0, []

    def perf_counter(self) -> float:
        return self.now

    def subject(self, name: str, seconds: list[float]) -> Subject:
        each = itertools.cycle(seconds)

        def run() -> None:
            self.ran.append(name)
            self.now += next(each)

        def reset() -> None:
            self.ran.append(f"{name} reset")
            self.now += 100.0

        return Subject(name, run, reset)


def test_subjects_take_turns_and_warmup_and_resets_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Ticking()
    monkeypatch.setattr(harness, "time", clock)
    subjects = [clock.subject("a", [9.0, 1.0, 2.0]), clock.subject("b", [8.0, 3.0, 4.0])]
    assert Bench(CPU, repeats=2, warmup=1).interleave(subjects) == {"a": [1.0, 2.0], "b": [3.0, 4.0]}
    assert clock.ran == ["a", "a reset", "b", "b reset"] * 3


@pytest.mark.parametrize("repeats,warmup,slow,rounds,runs", [(5, 2, False, 5, 7), (5, 2, True, 3, 4), (2, 0, True, 2, 2)])
def test_slow_subjects_have_fewer_rounds(repeats: int, warmup: int, slow: bool, rounds: int, runs: int) -> None:
    ran: list[int] = []
    samples = Bench(CPU, repeats, warmup).interleave([Subject("a", lambda: ran.append(1))], slow)
    assert (len(samples["a"]), len(ran)) == (rounds, runs)


@pytest.mark.parametrize("values", [[3.0, 1.0, 2.0], [1.0, 2.0], [5.0, 1.0, 4.0, 2.0, 8.0, 9.0], [7.0]])
def test_quartiles_are_numpys(values: list[float]) -> None:
    assert quartiles(values) == pytest.approx(tuple(np.quantile(values, [0.25, 0.75])))


def test_a_ratio_is_of_medians_per_work_and_its_spread_of_rounds() -> None:
    samples = {"mine": [6.0, 2.0, 4.0], "theirs": [1.0, 2.0, 4.0]}
    mine, theirs = compare("case", samples, "theirs", bars={"mine": 1.5}, work={"mine": 2.0})
    assert (mine.median, mine.work, mine.n) == (4.0, 2.0, 3)
    assert mine.ratio == 4.0 / 2.0 / 2.0
    assert mine.ratio_quartiles == (0.5, 1.75)  # of 3, 0.5 and 0.5
    assert mine.met is True
    assert (theirs.ratio, theirs.ratio_quartiles, theirs.bar, theirs.met) == (1.0, (1.0, 1.0), None, None)


@pytest.mark.parametrize("bar,noise,met", [(2.0, False, True), (1.9, False, False), (1.9, True, True), (0.9, True, False)])
def test_a_bar_is_for_the_ratio_or_within_the_noise_for_the_first_quartile(bar: float, noise: bool, met: bool) -> None:
    samples = {"mine": [1.0, 2.0, 3.0], "theirs": [1.0, 1.0, 1.0]}  # first quartile 1.5, of fewer rounds 1
    samples["mine"][1:1] = [1.0]
    samples["mine"].append(9.0)
    samples["theirs"] = [1.0] * 5
    (mine,) = compare("case", samples, "theirs", ["mine"], bars={"mine": bar}, noise=noise)
    assert (mine.ratio, mine.ratio_quartiles[0]) == (2.0, 1.0)
    assert mine.met is met


def test_the_switches_are_the_trainings() -> None:
    as_in_training(1, CPU)
    assert torch.get_num_threads() == 1
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory is False


@pytest.mark.parametrize("arguments", [["--repeats", "0"], ["--threads", "-1"], ["--repeats", "many"]])
def test_impossible_options_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser("moe", "what", 7).parse_args(arguments)
    assert arguments[0] in capsys.readouterr().err


def test_a_report_prints_and_writes_all_that_it_was_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("moe", CPU, {"repeats": 2})
    report.add(compare("the case", {"a": [0.001], "b": [0.003]}, "a", bars={"b": 2.0}, notes={"b": "why"}))
    report.note("a note")
    report.skip("c", "not installed")
    report.finish(tmp_path / "new" / "out.json")
    printed = capsys.readouterr().out
    for part in ("the case", "b (why)", "3.000", "missed", "a note", "skipped c: not installed", "0 of 1 bars met", "next: "):
        assert part in printed
    written = json.loads((tmp_path / "new" / "out.json").read_text())
    assert written["settings"] == {"repeats": 2}
    assert written["notes"] == ["a note"]
    assert written["skipped"] == {"c": "not installed"}
    assert [row["met"] for row in written["rows"]] == [None, False]


@pytest.mark.parametrize("module", [harness, layers], ids=lambda module: module.__name__)
def test_the_examples_are_true(module: ModuleType) -> None:
    results = doctest.testmod(module)
    assert results.attempted >= 2
    assert results.failed == 0


def test_the_processor_has_a_name() -> None:
    assert cpu_name().strip()
