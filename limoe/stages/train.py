"""The `train` stage: prepared data in; a model directory, metrics, routing and cost out.

What differs between two equal runs (seconds, memory, run ids) goes to `.limoe/timing/`, which no stage depends on.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch

from limoe.config import Contestant, MachineParams, Params, TrainParams
from limoe.data.loader import PairLoader
from limoe.data.prefetch import Prefetched
from limoe.data.prepared import TOKENIZER, Prepared
from limoe.data.suggestion import with_suggestion
from limoe.data.threads import unhindered
from limoe.data.transforms import Preprocess
from limoe.dist import be_deterministic, pick_device, pick_precision
from limoe.errors import UserError
from limoe.evals.validation import Validation
from limoe.files import atomic_directory, exclusive_lock, write_json, write_text
from limoe.model.io import ModelConfig, build_model, save_model
from limoe.model.limoe import Limoe
from limoe.model.spread import spread
from limoe.paths import Paths, fingerprint
from limoe.provenance import code_hash, git_commit
from limoe.stages.launch import launch
from limoe.tracking import Tracker, open_tracker
from limoe.train.contestants import caption_lengths, cost, model_config
from limoe.train.health import Alarm, Stopped
from limoe.train.loop import Trainer
from limoe.train.outcome import final_metrics, throughput, timing, timing_row, write_journals
from limoe.train.progress import Progress
from limoe.train.rollback import Rollback
from limoe.train.saver import BAD_BATCHES
from limoe.train.start import Start
from limoe.train.step import ContrastiveTask
from limoe.train.throughput import gpu_ceiling
from limoe.world import ALONE, World, is_first, local_rank, open_world, under_torchrun

RUN_ID = "run_id"  # in the work folder: the MLflow run that a resumed training goes on with


def run(params: Params, paths: Paths, contestant: Contestant) -> None:
    """Train one contestant; a killed run of the same params, data and code is continued from its last checkpoint.

    With `machine.processes` above 1 that many processes do it; so do those of a torchrun that has started this one.
    """
    parent = os.getppid()
    if params.machine.processes == 1 or under_torchrun():
        work(params, paths, contestant)
    else:
        own_pairs(params, contestant, params.machine.processes)
        launch(params, paths, contestant)
    if is_first() and os.getppid() == parent:  # else whoever started this has died, will not know of it, and starts it again
        with suppress(UserError), _locked(paths, contestant):  # another one that has begun goes on from the end, and comes here
            _discard(paths, contestant)


def own_pairs(params: Params, contestant: Contestant, processes: int) -> int:
    """Pairs of each batch that one of so many processes has; UserError if they are no whole number of routing groups."""
    owners = params.machine.expert_parallel if contestant == "limoe" else 1
    if processes % owners:
        raise UserError(
            f"machine.expert_parallel = {owners} must divide the number of processes, which is {processes} (machine.processes)"
        )
    batch, group = params.train.batch, params.model.moe.group_pairs if contestant == "limoe" else 1
    if batch % (processes * group):
        groups = f", in whole routing groups of model.moe.group_pairs = {group}" if contestant == "limoe" else ""
        raise UserError(f"train.batch = {batch} cannot be shared evenly by {processes} processes{groups}")
    return batch // processes


def work(params: Params, paths: Paths, contestant: Contestant) -> None:
    """What one process does of it. The resumable state is left to `run`."""
    with open_world(pick_device(params.machine.device, local_rank())) as world:
        own_pairs(params, contestant, world.size)
        with _locked(paths, contestant) if world.is_main else nullcontext():
            world.barrier()
            _train(params, paths, contestant, world)
            world.barrier()  # nobody reads a checkpoint any more


def _train(params: Params, paths: Paths, contestant: Contestant, world: World) -> None:
    prepared = Prepared(paths.prepared)
    train = params.train_for(contestant)
    if contestant == "limoe":
        params = with_suggestion(params, paths)
    lengths = caption_lengths(prepared, train, params.model.tower)
    config = model_config(params, contestant, prepared, lengths)
    start = None
    if train.start_from is not None:
        start = Start.of(paths.root / train.start_from, config, prepared.root / TOKENIZER)
    begun = start.hash if start else None
    name = fingerprint(config=config, train=train, data=prepared.hash, code=code_hash(__name__), start=begun)
    folder = paths.work(f"train-{contestant}-{name}")
    if not world.is_main:
        with open_trainer(params, config, start, train, prepared, folder, _unheard, _unheard, world) as trainer:
            trainer.run()
            trainer.choose_weights()
            trainer.weights()
        return
    _discard(paths, contestant, but=folder)
    resolved: dict[str, Any] = {"model": config.model_dump(mode="json"), "train": train.model_dump(mode="json")}
    resolved |= {"data": prepared.hash} | ({"start": begun} if begun else {})
    with _tracked(params, paths, contestant, folder) as tracker:
        _describe(tracker, contestant, resolved, folder, paths.prepared)
        device = pick_device(params.machine.device)
        ceiling = gpu_ceiling(device, pick_precision(train.precision, device))
        trainer = _fit(params, config, start, train, prepared, folder, contestant, tracker, world)
        trainer.choose_weights()
        weights = trainer.weights()
        costs = cost(config, train, lengths)
        speed = throughput(trainer, config.tower, costs, ceiling and ceiling * world.size)
        figures = timing(trainer, speed)
        print(f"train {contestant}: {speed}")
        tracker.log_rows([timing_row(trainer, figures)])
        with atomic_directory(paths.train(contestant)) as out:
            preprocess = Preprocess(config.tower.image_size).to_dict()
            for name, tensors in weights.items():
                save_model(out / name, config, tensors, prepared.root / TOKENIZER, preprocess)
            write_json(out / "params.json", resolved)
            write_json(out / "cost.json", costs)
            if train.export == "best":
                write_json(out / "export.json", {"step": trainer.best.chosen, "validation": trainer.best.figures})
            write_json(out / "metrics.json", final_metrics(write_journals(out, trainer), train.steps, trainer.rollbacks))
        write_json(paths.timing(f"train-{contestant}"), figures | {"mlflow_run_id": tracker.run_id})
        tracker.log_artifact(paths.train(contestant), "train")


def _fit(
    params: Params,
    config: ModelConfig,
    start: Start | None,
    train: TrainParams,
    prepared: Prepared,
    folder: Path,
    name: str,
    tracker: Tracker,
    world: World,
) -> Trainer:
    with (
        Progress(name, train) as progress,
        open_trainer(params, config, start, train, prepared, folder, progress.row, tracker.log_rows, world) as trainer,
    ):

        def on_alarm(alarm: Alarm) -> None:
            tracker.set_tags({"alarm": ", ".join(raised.name for raised in trainer.alarms)})
            if trainer.stopping is None:  # else the error will say it
                progress.alarm(alarm)

        def on_rollback(rollback: Rollback) -> None:
            tracker.set_tags({"rollbacks": "; ".join(map(str, trainer.rollbacks.done))})
            progress.rollback(rollback)

        trainer.on_alarm, trainer.on_rollback = on_alarm, on_rollback
        progress.start(trainer.step)
        try:
            trainer.run()
        except Stopped:
            tracker.log_artifact(folder / BAD_BATCHES, "train")
            raise
        return trainer


@contextmanager
def open_trainer(
    params: Params,
    config: ModelConfig,
    start: Start | None,
    train: TrainParams,
    prepared: Prepared,
    folder: Path,
    on_row: Callable[[dict[str, Any]], None],
    on_rows: Callable[[list[dict[str, Any]]], None],
    world: World = ALONE,
) -> Iterator[Trainer]:
    """A training that lives in `folder`, back at its last checkpoint; this process's threads, seed and determinism are set."""
    device = pick_device(params.machine.device, local_rank())
    precision = pick_precision(train.precision, device)
    torch.set_num_threads(train.threads)
    be_deterministic(device)
    torch.manual_seed(train.seed)
    model = build_model(config)
    if start is not None:
        start.load_into(model)
    model.set_grad_checkpointing(train.checkpoint_activations)
    if isinstance(model, Limoe):
        model.bucket = train.bucket
        if compiles(train, config, precision, device, params.machine):
            model.compile_blocks()
    model = model.to(device)
    task = ContrastiveTask(model, config.moe, train, precision, spread(model, params.machine, world))
    loader = PairLoader(prepared, params.model.tower, train, params.machine, device.type == "cuda", world)
    batches = Prefetched(loader, device, ahead=params.machine.workers > 0)
    validate = None
    if train.export == "best":
        validation = Validation(prepared, params.model.tower, train)

        def validate() -> dict[str, float]:
            return dict(world.collect(validation.run(model, device, precision))[0])  # all ranks choose by the same figures

    with closing(batches), unhindered():
        yield Trainer(task, batches, train, folder, on_row, on_rows, validate=validate).resume()


def compiles(
    train: TrainParams, config: ModelConfig, precision: torch.dtype, device: torch.device, machine: MachineParams
) -> bool:
    """Whether the blocks go through torch.compile. UserError if that is asked for and would not leave one graph a block."""
    reason = None
    if config.moe is not None and machine.expert_parallel > 1:
        reason = "machine.expert_parallel = 1: how many tokens go to which process depends on the data"
    elif machine.shard_weights:
        reason = "machine.shard_weights = false: blocks are put together and taken apart between their parts"
    elif train.bucket == 1:
        reason = "train.bucket above 1: else every batch has another shape"
    elif config.moe is not None and config.moe.router == "expert-choice":
        reason = "another router than expert-choice: how many experts take a token depends on the data"
    elif config.moe is not None and config.moe.kernel in ("loop", "streamed"):
        reason = f"another kernel than {config.moe.kernel}: its shapes depend on the data"
    elif config.moe is not None and config.moe.kernel == "grouped" and precision == torch.float32:
        reason = "another kernel than grouped in float32, which torch cannot compile"
    if train.compile is True and reason is not None:
        raise UserError(f"train.compile = true needs {reason}")
    return train.compile is True or (train.compile == "auto" and device.type == "cuda" and reason is None)


def _tracked(params: Params, paths: Paths, contestant: Contestant, folder: Path) -> Tracker:
    """The MLflow run of this training: a new one, or the one that was interrupted."""
    note = folder / RUN_ID
    before = note.read_text(encoding="utf-8") if note.exists() else None
    return open_tracker(params.machine, paths.root, "limoe-train", contestant, before)


def _describe(tracker: Tracker, contestant: Contestant, resolved: dict[str, Any], folder: Path, data: Path) -> None:
    """Say once what the run is; a resumed one has been told."""
    note = folder / RUN_ID
    if tracker.run_id is None or (note.exists() and note.read_text(encoding="utf-8") == tracker.run_id):
        return
    tracker.set_tags({"git_commit": git_commit(), "contestant": contestant})
    tracker.log_params(resolved)
    tracker.log_dict(resolved, "params.json")
    tracker.log_dataset("prepared", str(resolved["data"]), data)
    write_text(note, tracker.run_id)


def _locked(paths: Paths, contestant: Contestant) -> AbstractContextManager[None]:
    return exclusive_lock(paths.work(f"train-{contestant}.lock"), f"training {contestant}")


def _discard(paths: Paths, contestant: Contestant, but: Path | None = None) -> None:
    """Resumable state that is not needed any more, or is of other params, data or code: never resumed from."""
    for folder in paths.work("").glob(f"train-{contestant}-*"):
        if folder != but:
            shutil.rmtree(folder)


def _unheard(_: object) -> None:
    """A row that the main rank has, too."""
