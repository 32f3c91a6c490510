"""Of `python -m benchmarks.gpu`: trainings of the three contestants on the packed data, of as many steps as the time allows."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_steps import MIB, allocated, one_bucket
from limoe.config import CONTESTANTS, Contestant, Params
from limoe.data.prepared import Prepared
from limoe.data.schema import TRAIN
from limoe.dist import pick_device, pick_precision
from limoe.evals.validation import Validation
from limoe.stages.train import open_trainer
from limoe.train.contestants import caption_lengths, cost, model_config
from limoe.train.loop import Trainer
from limoe.train.outcome import throughput
from limoe.train.throughput import matmul_ceiling

SHARES = {"emoji": 1.0, "scenes": 1.0, "photos": 2.0}  # of the mixture, where the prepared set has them
VALIDATION_BATCH = 200  # pairs: two batches of the smallest validation set of the pack
PLANNED, LATEST = 0.65, 0.95  # shares of a contestant's time: for its steps; when it is stopped. The rest: to build, to score
WARMUP = 0.1  # of the steps


def measure_trainings(params: Params, data: Path, most: int, seconds: float) -> Iterator[dict[str, Any]]:
    """What each contestant reached after equally many steps, at most so many, within about so many seconds in all.

    params: the mixture is replaced by what the data hold.
    """
    end = time.monotonic() + seconds
    prepared = Prepared(data)
    params = with_data(params, prepared)
    device = pick_device(params.machine.device)
    ceiling = matmul_ceiling(device, pick_precision(params.train.precision, device))
    validation = Validation(prepared, params.model.tower, params.train, VALIDATION_BATCH)
    every = params.train.log_every
    steps = planned_steps(interval_seconds(params, prepared), end - time.monotonic(), every, most)
    for place, contestant in enumerate(CONTESTANTS):
        free(device)
        left = (end - time.monotonic()) / (len(CONTESTANTS) - place)
        yield trained(params, contestant, prepared, steps, time.monotonic() + LATEST * left, validation, ceiling)


def with_data(params: Params, prepared: Prepared) -> Params:
    """With a mixture of what the prepared set holds, and one bucket for its captions."""
    known = prepared.sources(TRAIN)
    mixture = {name: share for name, share in SHARES.items() if name in known}
    params = params.model_copy(update={"train": params.train.model_copy(update={"mixture": mixture})})
    return one_bucket(params, caption_lengths(prepared, params.train, params.model.tower))


def planned_steps(interval: float, seconds: float, every: int, most: int) -> int:
    """How many steps each of the trainings can have: whole intervals of `every` steps, which take so many seconds each.

    >>> planned_steps(1.0, 300.0, 10, 5000), planned_steps(1.0, 300.0, 10, 500), planned_steps(9.0, 6.0, 10, 500)
    (650, 500, 10)
    """
    return every * max(1, min(most // every, int(PLANNED * seconds / len(CONTESTANTS) / interval)))


def interval_seconds(params: Params, prepared: Prepared) -> float:
    """Seconds between two rows of the log of a LIMoE that is thrown away: the second ones, when blocks are compiled and batches
    flow."""
    every = params.train.log_every
    with training(params, "limoe", prepared, 2 * every) as trainer:
        trainer.run(every)
        before = trainer.pace.seconds
        trainer.run(2 * every)
        return trainer.pace.seconds - before


@contextmanager
def training(params: Params, contestant: Contestant, prepared: Prepared, steps: int) -> Iterator[Trainer]:
    """A training for so many steps that writes no checkpoint, which for a LIMoE would be gigabytes: the one at the last step is
    avoided by a recipe of one step more."""
    checkpoints = params.train.checkpoints.model_copy(update={"every": steps + 1, "minutes": None})
    changes = {"steps": steps + 1, "checkpoints": checkpoints, "warmup": int(WARMUP * steps)}
    params = params.model_copy(update={"train": params.train.model_copy(update=changes)})
    train = params.train_for(contestant)
    config = model_config(params, contestant, prepared, caption_lengths(prepared, train, params.model.tower))
    with (
        tempfile.TemporaryDirectory() as folder,
        open_trainer(params, config, None, train, prepared, Path(folder), lambda _: None, lambda _: None) as trainer,
    ):
        yield trainer


def trained(
    params: Params, contestant: Contestant, prepared: Prepared, steps: int, stop: float, validation: Validation, ceiling: float
) -> dict[str, Any]:
    """Train, at `stop` (of time.monotonic) not to the end, and score."""
    device = pick_device(params.machine.device)
    held = allocated(device)
    with training(params, contestant, prepared, steps) as trainer:
        while trainer.step < steps and time.monotonic() < stop:
            trainer.run(min(steps, trainer.step + trainer.train.log_every))
        peak = (torch.cuda.max_memory_allocated(device) - held) / MIB if device.type == "cuda" else None
        lengths = caption_lengths(prepared, trainer.train, params.model.tower)
        costs = cost(model_config(params, contestant, prepared, lengths), trainer.train, lengths)
        last = trainer.metrics.rows()[-1]
        return {
            "contestant": contestant,
            "steps": trainer.step,
            "planned": steps,
            "samples": trainer.step * trainer.train.batch,
            "seconds": trainer.pace.seconds,
            "gflops_per_pair_forward": costs["flops_per_pair_forward"] / 1e9,
            "speed": asdict(throughput(trainer, params.model.tower, costs, ceiling)),
            "peak_mib": peak,
            "contrastive": last.get("contrastive"),
            "text_placed": min((value for name, value in last.items() if name.endswith("/text_placed")), default=None),
            "scores": validation.run(trainer.task.model, device, trainer.task.precision),
        }


def free(device: torch.device) -> None:
    """Give back what the last model took."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
