"""The `evaluate` stage: a model directory, the prepared set and the user's own test sets in; scores and each item's value out. It
alone opens test sets.

Outs, in `runs/evaluate/CONTESTANT/`: metrics.json (what DVC shows), results.json (every score), items.parquet (what `compare`
resamples and pairs), confusion.json (what the worst classes are taken for) and provenance.json (which data, weights and settings
the scores belong to). The same in `ema/`, if the training left averaged weights. In `routing/`, how a LIMoE routes a
sample of the validation pairs (docs/routing.md). Embeddings are kept below `.limoe/work`, so that
what was embedded once is not again.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import torch

from limoe.config import Contestant, EvaluateParams, Params
from limoe.data.prepared import Prepared
from limoe.data.schema import SELECTION_SPLITS
from limoe.dist import pick_device
from limoe.evals.encoder import Track
from limoe.evals.routing.analysis import analyse
from limoe.evals.routing.pairs import selection_pairs
from limoe.evals.sets import EvalSet, confusion_rows, item_table, result_rows
from limoe.evals.suite import headline_metrics, open_encoder, open_external, provenance, score
from limoe.evals.zeroshot import PER_CLASS
from limoe.files import atomic_directory, atomic_file, write_json
from limoe.model.io import read_config
from limoe.paths import Paths
from limoe.provenance import git_commit
from limoe.tracking import open_tracker

# Fixed, because the bits of an embedding depend on it. One: two save 40% of a quarter of a minute where nothing else runs, but
# took seven times as long beside other work, where threads wait for each other.
THREADS = 1


def run(params: Params, paths: Paths, contestant: Contestant) -> None:
    """Score one trained contestant on every split but the training one."""
    started = time.monotonic()
    device = pick_device(params.machine.device)
    prepared = Prepared(paths.prepared)
    external = open_external(params.evaluate, paths.root, prepared.splits)
    source = provenance(prepared, paths.model(contestant), params.evaluate, external)
    score_into = partial(_score, prepared, external, params.evaluate, device, paths.embeddings)
    with open_tracker(params.machine, paths.root, "limoe-evaluate", contestant) as tracker:
        tracker.set_tags({"git_commit": git_commit(), "contestant": contestant})
        tracker.log_params(source)
        tracker.log_dataset("prepared", prepared.hash, prepared.root)
        with _threads(THREADS), atomic_directory(paths.evaluate(contestant)) as out:
            scores = score_into(paths.model(contestant), contestant, out)
            _record_routing(prepared, paths.model(contestant), params.evaluate.routing_pairs, device, out / "routing")
            if (averaged := paths.averaged(contestant)).is_dir():
                beside = score_into(averaged, f"{contestant}, ema", out / "ema")
                scores |= {f"ema/{name}": value for name, value in beside.items()}
        tracker.log_rows([{"step": 0, "time": round(time.time() * 1000)} | scores])
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


def _score(
    prepared: Prepared,
    external: Sequence[EvalSet],
    params: EvaluateParams,
    device: torch.device,
    kept: Path,
    folder: Path,
    name: str,
    out: Path,
) -> dict[str, float]:
    """Score one model directory, leave what was found in `out`, and return every score but the single classes' as SET/METRIC."""
    with _bars(name) as track:
        outcomes = score(open_encoder(folder, params, device, track, kept), prepared, params, external)
    rows = result_rows(outcomes)
    write_json(out / "metrics.json", headline_metrics(rows))
    write_json(out / "results.json", rows)
    write_json(out / "confusion.json", confusion_rows(outcomes))
    write_json(out / "provenance.json", provenance(prepared, folder, params, external))
    with atomic_file(out / "items.parquet") as handle:
        pq.write_table(item_table(outcomes), handle)
    return {f"{row['set']}/{row['metric']}": row["value"] for row in rows if not row["metric"].startswith(PER_CLASS)}


def _record_routing(prepared: Prepared, model: Path, pairs: int, device: torch.device, out: Path) -> None:
    """The routing analysis, of a model that routes, where there are validation pairs."""
    if pairs and read_config(model).kind == "limoe" and set(prepared.splits) & set(SELECTION_SPLITS):
        analyse(model, selection_pairs(prepared), pairs, device).save(out)


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
