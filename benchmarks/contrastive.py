"""`python -m benchmarks.contrastive`: peak memory and time of the chunked contrastive losses against the plain ones.

Forward and backward in float32, gradients to images, texts, scale and bias. Memory is what a run adds at its peak to the
embeddings themselves: on CPU the resident memory of a fresh process (Linux), on a GPU torch's allocator.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Bench, Samples, Subject, as_in_training, bench_of, compare, parser, positive
from benchmarks.report import Report
from limoe.losses.chunked import sigmoid_chunked, softmax_chunked
from limoe.losses.contrastive import sigmoid_contrastive, softmax_contrastive

FUNCTIONS = {"softmax": (softmax_contrastive, softmax_chunked), "sigmoid": (sigmoid_contrastive, sigmoid_chunked)}
WAYS = ("plain", "chunked")
PAIRS = {"cpu": 16_384, "cuda": 32_768}
WIDTH, CHUNK = 512, 1024  # of the embeddings; rows, as params.yaml has it
WARM_PAIRS = 64  # of the run before the baseline, which loads what libraries load once
MEMORY_BAR, TIME_BAR = 0.1, 1.5
MIB = 2**20


@dataclass(frozen=True)
class Case:
    """A loss (softmax or sigmoid) and how it is computed (plain or chunked), at a size."""

    loss: str
    way: str
    pairs: int
    width: int
    chunk: int

    def learned(self, device: torch.device) -> list[Tensor]:
        """Random unit vectors, scale and, for sigmoid, bias: what gets a gradient."""
        generator = torch.Generator().manual_seed(0)
        image, text = (F.normalize(torch.randn(self.pairs, self.width, generator=generator), dim=1) for _ in range(2))
        start = (10.0, -10.0) if self.loss == "sigmoid" else (10.0,)
        return [x.to(device).requires_grad_() for x in (image, text, *map(torch.tensor, start))]

    def run(self, learned: list[Tensor]) -> None:
        """One forward and backward pass."""
        plain, chunked = FUNCTIONS[self.loss]
        loss = plain(*learned) if self.way == "plain" else chunked(*learned, self.chunk)
        loss.backward()


def free(learned: list[Tensor]) -> None:
    """Forget the gradients."""
    for x in learned:
        x.grad = None


def peak_mib(case: Case, device: str, threads: int) -> float:
    """MiB that a run of `case` adds at its peak; on CPU it must be called in a process of its own."""
    as_in_training(threads, torch.device(device))
    warm = replace(case, pairs=WARM_PAIRS)
    warm.run(warm.learned(torch.device(device)))
    learned = case.learned(torch.device(device))
    if device == "cpu":
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
        before = resident_kib("VmRSS")
        case.run(learned)
        return (resident_kib("VmHWM") - before) / 1024
    torch.cuda.reset_peak_memory_stats(device)
    held = torch.cuda.memory_allocated(device)
    case.run(learned)
    return (torch.cuda.max_memory_allocated(device) - held) / MIB


def resident_kib(key: str) -> int:
    """A line of /proc/self/status: VmRSS now, VmHWM at its highest. (getrusage's peak is inherited from the parent.)"""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def measure_memory(report: Report, bench: Bench, cases: Sequence[Case], title: str) -> None:
    """Peak memory of each case, in a process of its own, one after the other."""
    samples: Samples = {}
    for case in cases:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            try:
                peak = pool.submit(peak_mib, case, str(bench.device), torch.get_num_threads()).result()
            except (BrokenProcessPool, FileNotFoundError, PermissionError, torch.OutOfMemoryError) as error:
                report.skip(title, f"{case.way}: {type(error).__name__}: {error} (memory is read from Linux's /proc)")
                return
        samples[case.way] = [peak]
    report.add(compare(title, samples, "plain", bars={"chunked": MEMORY_BAR}, unit="MiB"))


def measure_time(report: Report, bench: Bench, cases: Sequence[Case], title: str) -> None:
    """Time of each case, by turns."""
    given = [(case, case.learned(bench.device)) for case in cases]
    subjects = [Subject(case.way, partial(case.run, learned), partial(free, learned)) for case, learned in given]
    report.add(compare(title, bench.interleave(subjects), "plain", bars={"chunked": TIME_BAR}))


def main(argv: Sequence[str] | None = None) -> Report:
    """Measure what the options ask for; the report, printed and written."""
    options = _options(argv)
    bench = replace(bench_of(options), warmup=1)
    pairs = options.pairs or (256 if options.quick else PAIRS[bench.device.type])
    chunk = min(options.chunk, 32) if options.quick else options.chunk
    settings = {"pairs": pairs, "width": options.width, "chunk": chunk, "repeats": bench.repeats, "losses": options.only}
    report = Report("contrastive", bench.device, settings | {"quick": options.quick})
    report.start()
    for loss in options.only:
        cases = [Case(loss, way, pairs, options.width, chunk) for way in WAYS]
        size = f"{loss}: {pairs:,} pairs, width {options.width}, chunks of {chunk:,}, float32"
        measure_memory(report, bench, cases, f"peak memory, {size}")
        measure_time(report, bench, cases, f"time, {size}")
    report.finish(options.json)
    return report


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    options = parser("contrastive", (__doc__ or "").split("\n")[0], 3)
    options.add_argument("--only", nargs="+", choices=FUNCTIONS, default=list(FUNCTIONS), help="losses (default: both)")
    options.add_argument("--pairs", type=positive, help="of the batch (default: 16,384 on a CPU, 32,768 on a GPU)")
    options.add_argument("--width", type=positive, default=WIDTH, help="of the embeddings (default: %(default)s)")
    options.add_argument("--chunk", type=positive, default=CHUNK, help="rows held at a time (default: %(default)s)")
    return options.parse_args(argv)


if __name__ == "__main__":
    main(sys.argv[1:])
