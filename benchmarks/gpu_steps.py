"""Of `python -m benchmarks.gpu`: whole training steps of the three contestants, by turns, and where LIMoE's time goes."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, median, pstdev
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.harness import Bench, Subject, compare
from benchmarks.layers import CAPTION_QUANTILES
from benchmarks.step import STEP_BAR, flops, placed, subject_of, trainer_of
from limoe.config import CONTESTANTS, Params
from limoe.dist import pick_precision
from limoe.train.loop import Trainer
from limoe.train.throughput import Throughput, matmul_ceiling

SPREAD = 4  # standard deviations of a batch's number of text tokens that one bucket holds
ROUNDED = 64  # tokens: a bucket is a multiple of it
LONGEST, SHOWN = 120, 12  # characters of an operation's name; operations
MIB = 2**20


def one_bucket(params: Params, lengths: Sequence[int]) -> Params:
    """With a `train.bucket` that one batch's captions, of such lengths, fill once: blocks are compiled for one shape. No result
    sees it, and of the stream's rows a few percent are padding."""
    batch = params.train.batch
    tokens = batch * fmean(lengths) + SPREAD * pstdev(lengths) * math.sqrt(batch)
    bucket = ROUNDED * math.ceil(tokens / ROUNDED)
    return params.model_copy(update={"train": params.train.model_copy(update={"bucket": bucket})})


def measure_steps(params: Params, bench: Bench, steps: int) -> dict[str, Any]:
    """Ratios and throughput, memory at its peak, FLOPs, share of placed choices, hottest operations.

    steps: one after the other without waiting for the device, as in training; a sample is their mean.
    """
    params, device = one_bucket(params, CAPTION_QUANTILES), bench.device
    precision = pick_precision(params.train.precision, device)
    ceiling = matmul_ceiling(device, precision)
    with tempfile.TemporaryDirectory() as folder:
        trainers: dict[str, Trainer] = {}
        peaks = {name: first_steps(name, trainers, params, device, Path(folder)) for name in CONTESTANTS}
        samples = bench.interleave([several(subject_of(trainer, name), steps) for name, trainer in trainers.items()])
        hottest = operations(subject_of(trainers["limoe"], "limoe").run, device)
    title = f"step: {params.train.batch} pairs of {params.model.tower.image_size} px, {str(precision).removeprefix('torch.')}"
    work = dict.fromkeys(samples, float(steps))
    rows = compare(title, samples, "clip", bars={"limoe": STEP_BAR}, work=work)
    tokens = params.model.tower.image_tokens + fmean(CAPTION_QUANTILES)
    costs = {name: flops(params, name, trainer) for name, trainer in trainers.items()}
    speeds = {
        name: Throughput.of(median(samples[name]) / steps, params.train.batch, tokens, costs[name], ceiling) for name in trainers
    }
    return {
        "rows": [asdict(row) for row in rows + compare(title, samples, "dense", ["limoe"], work=work)],
        "speeds": {name: asdict(speed) for name, speed in speeds.items()},
        "gflops_per_pair_forward": {name: cost / 1e9 for name, cost in costs.items()},
        "peak_mib": peaks,
        "placed": placed(trainers["limoe"]),
        "hottest": hottest,
    }


def first_steps(name: Any, trainers: dict[str, Trainer], params: Params, device: torch.device, folder: Path) -> float | None:
    """Put the contestant's training into `trainers` and take two steps; what it takes of the card's memory at its peak, MiB,
    without those before it (None on a processor)."""
    held = allocated(device)
    trainers[name] = trainer_of(params, name, device, folder)
    several(subject_of(trainers[name], name), 2).run()
    return None if device.type != "cuda" else (torch.cuda.max_memory_allocated(device) - held) / MIB


def allocated(device: torch.device) -> int:
    """Bytes of the card that tensors hold; its peak is counted from here."""
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def several(subject: Subject, steps: int) -> Subject:
    """The subject, so many times in a row."""

    def run() -> None:
        for _ in range(steps):
            subject.run()

    return Subject(subject.name, run, subject.reset)


def operations(run: Callable[[], object], device: torch.device) -> list[dict[str, Any]]:
    """What one run spends most of its time in (on a GPU its kernels): name, ms, calls, and the share of all that was seen."""
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as seen:
        run()
    here = [event for event in seen.key_averages() if (event.device_type == DeviceType.CUDA) == on_gpu]
    events = [event for event in here if not event.is_user_annotation]  # which span operations that are counted themselves
    spent = {event.key: event.self_device_time_total if on_gpu else event.self_cpu_time_total for event in events}
    calls = {event.key: event.count for event in events}
    total = sum(spent.values())
    return [
        {"name": key[:LONGEST], "ms": spent[key] / 1e3, "calls": calls[key], "share": spent[key] / total}
        for key in sorted(spent, key=lambda key: -spent[key])[:SHOWN]
    ]
