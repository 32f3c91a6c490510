"""What a finished training leaves: figures that two equal runs share, and, apart from them, those of this run on this machine."""

from __future__ import annotations

import json
import resource
import statistics
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from limoe.config import TowerParams
from limoe.files import atomic_file, write_bytes, write_json, write_text
from limoe.train import plots
from limoe.train.loop import Trainer
from limoe.train.rollback import Rollbacks
from limoe.train.saver import BAD_BATCHES
from limoe.train.throughput import Throughput

LAST_STEPS = 50  # window of the final figures
SCALARS = ("loss", "contrastive", "auxiliary", "logit_scale", "gradient_norm")
WORST_LAYER = ("text_placed", "image_placed", "text_effective_experts", "image_effective_experts", "text_confidence")
ROUTING_SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("layer", pa.int64()),
        ("modality", pa.string()),
        ("expert", pa.int64()),
        ("assigned", pa.int64()),
        ("placed", pa.int64()),
        ("tokens", pa.int64()),
        ("confidence", pa.float64()),
    ]
)


def final_metrics(rows: list[dict[str, Any]], steps: int, rollbacks: Rollbacks) -> dict[str, float]:
    """At most 12 figures for `dvc metrics`: means over the last 50 steps; of routing figures the worst layer's. What steps taught
    that a rollback covers is no part of the weights, and of no mean."""
    standing = [row for row in rows if not any(rollback.covers(row["step"]) for rollback in rollbacks.done)]
    last = [row for row in standing if row["step"] > steps - LAST_STEPS]
    known = {name: [row[name] for row in last if name in row] for name in SCALARS}  # a row of a skipped step lacks its losses
    metrics = {name: statistics.fmean(values) for name, values in known.items() if values}
    for figure in WORST_LAYER:
        layers = {name for row in last for name in row if name.endswith(f"/{figure}")}
        if layers:
            metrics[f"{figure}_min"] = min(statistics.fmean(row[name] for row in last if name in row) for name in layers)
    metrics |= {"rollbacks": len(rollbacks.done)} if rollbacks.on else {}
    return metrics | {"skipped_steps": rows[-1]["skipped_steps"]}


def write_journals(folder: Path, trainer: Trainer) -> list[dict[str, Any]]:
    """Write metrics.jsonl (without times of day), routing.parquet, their plots and health.json (alarms and rollbacks) into
    `folder`, and bad_batches.jsonl if there were any; returns the rows of metrics."""
    rows = [{name: value for name, value in row.items() if name != "time"} for row in trainer.metrics.rows()]
    write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    routing = trainer.routing.rows()
    with atomic_file(folder / "routing.parquet") as handle:
        pq.write_table(pa.Table.from_pylist(routing, ROUTING_SCHEMA), handle)
    rollbacks = [asdict(rollback) for rollback in trainer.rollbacks.done]
    write_json(folder / "health.json", {"alarms": [asdict(alarm) for alarm in trainer.alarms], "rollbacks": rollbacks})
    if bad := trainer.bad_batches.path.read_bytes():
        write_bytes(folder / BAD_BATCHES, bad)
    write_bytes(folder / "plots" / "curves.png", plots.curves(rows))
    if routing:
        write_bytes(folder / "plots" / "experts.png", plots.expert_load(routing))
    return rows


def throughput(trainer: Trainer, tower: TowerParams, costs: Mapping[str, float], ceiling: float | None) -> Throughput:
    """How fast the training went. costs: those of limoe/train/contestants.py. ceiling: what the device can do, FLOP/s."""
    tokens = tower.image_tokens + costs["mean_caption_tokens"]
    return Throughput.of(trainer.pace.step_seconds, trainer.train.batch, tokens, costs["flops_per_pair_forward"], ceiling)


def timing(trainer: Trainer, speed: Throughput) -> dict[str, Any]:
    """Seconds of all steps, and joules of the GPU in them (None where NVML does not tell); median step (ms), throughput; this
    process's peak of resident memory and, on a GPU, of what tensors took (MB); pairs whose activations each process held at a
    time; device, processes, threads of each, precision."""
    device = trainer.device
    on_gpu = device.type == "cuda"
    return {
        "seconds": round(trainer.pace.seconds, 2),
        "joules": None if trainer.pace.joules is None else round(trainer.pace.joules, 1),
        "steps": trainer.step,
        "step_ms_median": round(1000 * trainer.pace.step_seconds, 1),
        **asdict(speed),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "peak_gpu_mb": torch.cuda.max_memory_allocated(device) // 2**20 if on_gpu else None,
        "micro_batch": trainer.gradients.held(trainer.train.batch // trainer.world.size),
        "device": torch.cuda.get_device_name(device) if on_gpu else str(device),
        "processes": trainer.world.size,
        "threads": trainer.train.threads,
        "precision": str(trainer.task.precision).removeprefix("torch."),
    }


def timing_row(trainer: Trainer, figures: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of `timing` as a row for a tracker: it has the time of the log's last row, with which it may be sent again."""
    numbers = {f"timing/{name}": value for name, value in figures.items() if isinstance(value, int | float)}
    return {"step": trainer.step, "time": trainer.metrics.rows()[-1]["time"]} | numbers
