"""The `evaluate` stage: a model directory and the prepared set in; scores and each item's value out. It alone opens test sets.

Outs, in `runs/evaluate/CONTESTANT/`: metrics.json (what DVC shows), results.json (every score), items.parquet (what `compare`
resamples and pairs) and provenance.json (which data, weights and settings the scores belong to).
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from limoe.config import Contestant, EvaluateParams, Params, Paths
from limoe.data.prepared import TOKENIZER, Prepared
from limoe.data.tokenizer import Tokenizer
from limoe.data.transforms import Preprocess
from limoe.dist import pick_device
from limoe.errors import UserError
from limoe.evals.encoder import Encoder, Track
from limoe.evals.sets import COLUMNS, EvalSet, Outcome, item_table, result_rows
from limoe.evals.suite import evaluation_splits, evaluators, headline_metrics
from limoe.evals.zeroshot import PER_CLASS
from limoe.files import atomic_directory, atomic_file, read_json, sha256_file, write_json
from limoe.model.io import load_model, read_config
from limoe.provenance import git_commit
from limoe.tracking import open_tracker

# Fixed, because the bits of an embedding depend on it. One: two save 40% of a quarter of a minute where nothing else runs, but
# took seven times as long beside other work, where threads wait for each other.
THREADS = 1


def run(params: Params, paths: Paths, contestant: Contestant) -> None:
    """Score one trained contestant on every split but the training one."""
    started = time.monotonic()
    folder = paths.model(contestant)
    device = pick_device(params.machine.device)
    prepared = Prepared(paths.prepared)
    source = provenance(prepared, folder, params.evaluate)
    with open_tracker(params.machine, paths.root, "limoe-evaluate", contestant) as tracker:
        tracker.set_tags({"git_commit": git_commit(), "contestant": contestant})
        tracker.log_params(source)
        tracker.log_dataset("prepared", prepared.hash, prepared.root)
        with _threads(THREADS), _bars(contestant) as track:
            outcomes = score(open_encoder(folder, params.evaluate, device, track), prepared, params.evaluate)
        rows = result_rows(outcomes)
        with atomic_directory(paths.evaluate(contestant)) as out:
            write_json(out / "metrics.json", headline_metrics(rows))
            write_json(out / "results.json", rows)
            write_json(out / "provenance.json", source)
            with atomic_file(out / "items.parquet") as handle:
                pq.write_table(item_table(outcomes), handle)
        tracker.log_rows([_tracked(rows)])
        tracker.log_artifact(paths.evaluate(contestant), "evaluate")
    write_json(
        paths.timing(f"evaluate-{contestant}"),
        {
            "seconds": round(time.monotonic() - started, 2),
            "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "device": str(device),
            "threads": THREADS,
            "mlflow_run_id": tracker.run_id,
        },
    )


def provenance(prepared: Prepared, folder: Path, params: EvaluateParams) -> dict[str, Any]:
    """Hashes of the prepared set and of the weights, and the settings. UserError if the two do not belong together: a model whose
    tokenizer is not the set's would be scored on captions that it was not trained on."""
    config = read_config(folder)
    tokenizer = sha256_file(folder / TOKENIZER)
    if tokenizer != sha256_file(prepared.root / TOKENIZER):
        raise UserError(f"{folder}: its tokenizer is not that of {prepared.root}; train it again on this prepared set")
    return {
        "data": prepared.hash,
        "weights": sha256_file(folder / "model.safetensors"),
        "tokenizer": tokenizer,
        "kind": config.kind,
        "evaluate": params.model_dump(mode="json"),
    }


def open_encoder(folder: Path, params: EvaluateParams, device: torch.device, track: Track | None = None) -> Encoder:
    """The model of a model directory, with the tokenizer, text length and preprocessing that it was trained with."""
    model, length = load_model(folder, device), read_config(folder).tower.text_length
    tokenizer = Tokenizer.load(folder / TOKENIZER)
    preprocess = Preprocess.from_dict(read_json(folder / "preprocess.json"))
    return Encoder(model, lambda texts: tokenizer(list(texts), length), preprocess, params.batch, device, track)


def score(encoder: Encoder, prepared: Prepared, params: EvaluateParams) -> list[Outcome]:
    """Every evaluator of every split but the training one; UserError if there is nothing to score."""
    outcomes = []
    for split in evaluation_splits(prepared.splits):
        data = EvalSet.of(split, prepared.table(split, COLUMNS))
        outcomes += [evaluator.run(encoder) for evaluator in evaluators(data, params)]
    if not outcomes:
        raise UserError(
            f"{prepared.root}: nothing to evaluate on: no split but train has two pictures; splits: {prepared.splits}"
        )
    return outcomes


def _tracked(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """One row of metrics for the tracker: every score but the single classes'."""
    scores = {f"{row['set']}/{row['metric']}": row["value"] for row in rows if not row["metric"].startswith(PER_CLASS)}
    return {"step": 0, "time": round(time.time() * 1000)} | scores


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """torch on `count` threads for the body."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _bars(name: str) -> Iterator[Track]:
    """A progress bar for each thing that is encoded."""
    from rich.progress import Progress

    with Progress(transient=True) as progress:

        def track(steps: Iterable[int], what: str, count: int) -> Iterable[int]:
            return progress.track(steps, total=count, description=f"evaluate {name}: {what}")

        yield track
