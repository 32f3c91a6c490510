"""Measuring: subjects take turns, round by round, so that whatever else the machine does falls on all of them alike.

A benchmark module is a `main(argv)`: `parser` reads its options, `Report` collects rows (and what was skipped, and why),
prints them and writes them as JSON. It exits with 0 whatever it finds: it reports, and a person or a test judges.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

import torch

from limoe.dist import be_deterministic, pick_device

SLOW_REPEATS = 3
Samples = dict[str, list[float]]  # one number a round for each subject, by its name


def nothing() -> None:
    """The reset of a subject that leaves nothing behind."""


@dataclass(frozen=True)
class Subject:
    """Something to time. run: what is timed. reset: called after each run, not timed (frees gradients)."""

    name: str
    run: Callable[[], object]
    reset: Callable[[], object] = nothing


@dataclass(frozen=True)
class Row:
    """One subject's figures beside those of a base of the same case.

    median, quartiles (first, third): of `n` samples, in `unit`. work: how much it did for that, relative or in tokens.
    ratio: (median / work) over the base's; ratio_quartiles: of the ratios within each round. bar: what the ratio must not exceed.
    met: whether it does not; with `noise`, it is enough that the first quartile of the rounds' ratios does not.
    """

    case: str
    name: str
    base: str
    unit: str
    n: int
    median: float
    quartiles: tuple[float, float]
    work: float
    ratio: float
    ratio_quartiles: tuple[float, float]
    bar: float | None
    noise: bool
    met: bool | None
    note: str


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """First and third quartile, by linear interpolation between the sorted values.

    >>> quartiles([1.0, 2.0, 3.0, 4.0, 5.0])
    (2.0, 4.0)
    """
    if len(values) == 1:
        return values[0], values[0]
    first, _, third = quantiles(values, n=4, method="inclusive")
    return first, third


def compare(
    case: str,
    samples: Samples,
    base: str,
    names: Sequence[str] | None = None,
    *,
    bars: dict[str, float] | None = None,
    work: dict[str, float] | None = None,
    notes: dict[str, str] | None = None,
    unit: str = "s",
    noise: bool = False,
) -> list[Row]:
    """A row for each subject in `names` (all by default) against `base`; bars, work (1 by default) and notes by subject.

    >>> rows = compare("x", {"a": [1.0, 1.0, 3.0], "b": [2.0, 4.0, 3.0]}, "a", bars={"b": 2.5})
    >>> [(row.name, row.ratio, row.met) for row in rows]
    [('a', 1.0, None), ('b', 3.0, False)]
    """
    bars, work, notes = bars or {}, work or {}, notes or {}
    amount = {name: work.get(name, 1.0) for name in samples}
    rows = []
    for name in names or samples:
        ratio = median(samples[name]) / amount[name] / (median(samples[base]) / amount[base])
        pairs = zip(samples[name], samples[base], strict=True)
        spread = quartiles([mine / amount[name] / (theirs / amount[base]) for mine, theirs in pairs])
        bar = bars.get(name)
        rows.append(
            Row(
                case=case,
                name=name,
                base=base,
                unit=unit,
                n=len(samples[name]),
                median=median(samples[name]),
                quartiles=quartiles(samples[name]),
                work=amount[name],
                ratio=ratio,
                ratio_quartiles=spread,
                bar=bar,
                noise=noise,
                met=None if bar is None else (min(ratio, spread[0]) if noise else ratio) <= bar,
                note=notes.get(name, ""),
            )
        )
    return rows


@dataclass(frozen=True)
class Bench:
    """How to measure here. device: where. repeats: rounds that count. warmup: rounds before them. label: of the progress bar."""

    device: torch.device
    repeats: int
    warmup: int = 2
    label: str = field(default="", compare=False)

    def interleave(self, subjects: Sequence[Subject], slow: bool = False) -> Samples:
        """Seconds of each subject in each round: A B C A B C ..., after rounds of warm-up; slow: at most 3 rounds after 1."""
        from rich.progress import Progress

        rounds = min(SLOW_REPEATS, self.repeats) if slow else self.repeats
        warmup = min(1, self.warmup) if slow else self.warmup
        samples: Samples = {subject.name: [] for subject in subjects}
        with Progress(transient=True) as bar:
            bar.disable = not bar.console.is_terminal
            task = bar.add_task(self.label, total=(warmup + rounds) * len(subjects))
            for number in range(warmup + rounds):
                for subject in subjects:
                    seconds = self.clock(subject)
                    if number >= warmup:
                        samples[subject.name].append(seconds)
                    bar.advance(task)
        return samples

    def clock(self, subject: Subject) -> float:
        """Seconds of one run; its reset comes after, untimed."""
        self.wait()
        start = time.perf_counter()
        subject.run()
        self.wait()
        seconds = time.perf_counter() - start
        subject.reset()
        return seconds

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def as_in_training(threads: int, device: torch.device) -> None:
    """The switches that the `train` stage sets: threads, deterministic algorithms, no filling of uninitialised memory."""
    torch.set_num_threads(threads)
    be_deterministic(device)
    torch.manual_seed(0)


def parser(module: str, what: str, repeats: int) -> argparse.ArgumentParser:
    """The options that all benchmarks have; a module adds its own."""
    options = argparse.ArgumentParser(prog=f"python -m benchmarks.{module}", description=what)
    options.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    options.add_argument("--repeats", type=positive, default=repeats, help="rounds that count (default: %(default)s)")
    options.add_argument("--threads", type=positive, default=2, help="of the CPU (default: %(default)s)")
    options.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    options.add_argument("--quick", action="store_true", help="tiny shapes, two rounds: whether it runs, not how fast")
    return options


def bench_of(options: argparse.Namespace) -> Bench:
    """The measuring that the options ask for, with the training's switches set."""
    device = pick_device(options.device)
    as_in_training(options.threads, device)
    return Bench(device, 2, 1) if options.quick else Bench(device, options.repeats)


def positive(text: str) -> int:
    """A whole number above 0, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is below 1")
    return number
