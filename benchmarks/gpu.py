"""`python -m benchmarks.gpu`: all that is to be known of a GPU, in one run of less than nine minutes. It has not run on one yet.

It needs torch 2.11 or later and what `python -m benchmarks.gpu_pack` packs; none of prefect, mlflow and dvc. Parts are measured
one after the other, each within its seconds: one that fails or takes longer leaves a line that says so, and the next one begins.
What is found is on disk at once, as a line of JSON. `--tiny` goes the same way on a processor, with shapes whose figures say
nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.contrastive import CHUNK, MEMORY_BAR, WAYS, WIDTH, measure_time, peak_mib
from benchmarks.contrastive import Case as LossCase
from benchmarks.gpu_settings import Setting, full, tiny
from benchmarks.gpu_steps import measure_steps
from benchmarks.gpu_train import free, measure_trainings
from benchmarks.harness import Bench, Samples, as_in_training, compare
from benchmarks.moe import Case, measure_layer
from benchmarks.report import Report, machine
from limoe.dist import pick_device
from limoe.errors import UserError
from limoe.train.throughput import matmul_ceiling

OLDEST = (2, 11)  # torch
TOTAL_SECONDS = 470.0  # benchmarks/gpu.sh ends the process forty seconds later, and all is over before nine minutes
SECONDS = {"card": 15.0, "layer": 60.0, "large": 110.0, "default": 60.0, "loss": 30.0}  # at most; the trainings have what is left
PRECISIONS = (torch.bfloat16, torch.float32)
MIB = 2**20
Figures = dict[str, Any]
Part = Callable[[float], Iterator[Figures]]  # seconds that it may take -> what it finds, as it finds it


class OutOfTime(BaseException):
    """A part took longer than it may. Whatever a library catches to go on without it, it does not catch this."""


def card(bench: Bench) -> Iterator[Figures]:
    """What all other figures depend on."""
    ceilings = {str(precision).removeprefix("torch."): matmul_ceiling(bench.device, precision) / 1e12 for precision in PRECISIONS}
    memory = torch.cuda.get_device_properties(bench.device).total_memory / MIB if bench.device.type == "cuda" else None
    date = datetime.now(UTC).date().isoformat()
    yield {"machine": machine(bench.device), "date": date, "ceiling_tflops": ceilings, "memory_mib": memory}


def layer(bench: Bench, case: Case) -> Iterator[Figures]:
    """The sparse layer's kernels against a dense layer of equal active FLOPs."""
    report = Report("gpu", bench.device, {})
    measure_layer(report, bench, case, "bfloat16", compile_dense=bench.device.type == "cuda")
    yield found(report)


def loss(bench: Bench, pairs: int) -> Iterator[Figures]:
    """Time and, on a GPU (where the allocator tells it), memory of the chunked contrastive loss against the plain one."""
    report = Report("gpu", bench.device, {})
    cases = [LossCase("softmax", way, pairs, WIDTH, CHUNK) for way in WAYS]
    size = f"softmax: {pairs:,} pairs, width {WIDTH}, chunks of {CHUNK:,}, float32"
    if bench.device.type == "cuda":
        peaks: Samples = {case.way: [peak_mib(case, str(bench.device), torch.get_num_threads())] for case in cases}
        report.add(compare(f"peak memory, {size}", peaks, "plain", bars={"chunked": MEMORY_BAR}, unit="MiB"))
    measure_time(report, bench, cases, f"time, {size}")
    yield found(report)


def found(report: Report) -> Figures:
    """What a report has collected."""
    return {"rows": [asdict(row) for row in report.rows], "notes": report.notes, "skipped": report.skipped}


def parts_of(setting: Setting, bench: Bench, data: Path) -> dict[str, Part]:
    """Every part, in the order of the run."""
    return {
        "card": lambda _: card(bench),
        "layer": lambda _: layer(bench, setting.case),
        "large": lambda _: iter([measure_steps(setting.large, bench, setting.steps)]),
        "default": lambda _: iter([measure_steps(setting.default, bench, setting.steps)]),
        "loss": lambda _: loss(bench, setting.pairs),
        "train": lambda seconds: measure_trainings(setting.trained, data, setting.most, seconds),
    }


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """OutOfTime in the body after so many seconds."""

    def ring(*_: object) -> None:
        raise OutOfTime(f"it took longer than {seconds:.0f} s")

    handler, timer = signal.signal(signal.SIGALRM, ring), signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)


def run(parts: Mapping[str, Part], path: Path, total: float, device: torch.device) -> None:
    """Write a JSON line for whatever a part finds, and one for each that did not come to its end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with path.open("w", encoding="utf-8") as lines:

        def record(part: str, figures: Figures) -> None:
            at = round(time.monotonic() - start, 1)
            lines.write(json.dumps({"part": part, "at_s": at} | figures) + "\n")
            lines.flush()
            os.fsync(lines.fileno())
            print(f"{part}: {figures.get('error', 'done')}, after {at:.0f} s in all", flush=True)

        for name, part in parts.items():
            left = max(1.0, total - (time.monotonic() - start))
            seconds = min(SECONDS.get(name, left), left)
            try:
                with at_most(seconds):
                    for figures in part(seconds):
                        record(name, figures)
            except (Exception, OutOfTime) as error:
                record(name, {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"})
            free(device)


def check(device: torch.device, is_tiny: bool) -> None:
    """UserError where nothing of worth could be measured."""
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < OLDEST:
        raise UserError(f"torch {torch.__version__} is too old: benchmarks.gpu needs {'.'.join(map(str, OLDEST))} or later")
    if device.type != "cuda" and not is_tiny:
        raise UserError("there is no GPU that torch can use; --tiny goes through all parts on a processor")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write; 2 if there is nothing to measure on."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").split("\n")[0])
    options.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="the prepared set of benchmarks.gpu_pack")
    options.add_argument("--json", type=Path, required=True, metavar="FILE", help="one line of JSON for what each part finds")
    options.add_argument("--seconds", type=float, default=TOTAL_SECONDS, help="for all parts (default: %(default)s)")
    options.add_argument("--tiny", action="store_true", help="on a processor, tiny shapes: whether it runs, not how fast")
    chosen = options.parse_args(argv)
    device = pick_device("cpu" if chosen.tiny else "auto")
    try:
        check(device, chosen.tiny)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    as_in_training(1 if chosen.tiny else 8, device)
    setting, bench = (tiny(), Bench(device, 2, 1)) if chosen.tiny else (full(), Bench(device, 6, 1))
    run(parts_of(setting, bench, chosen.data), chosen.json, chosen.seconds, device)
    print(f"next: python -m benchmarks.gpu_report {chosen.json} tells it as a page")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
