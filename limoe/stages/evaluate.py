"""The `evaluate` stage: a model directory, the prepared set and the user's own test sets in; scores and each item's value out. It
alone opens test sets.

Outs, in `runs/evaluate/CONTESTANT/`: metrics.json (what DVC shows), results.json (every score), items.parquet (what `compare`
resamples and pairs), confusion.json (what the worst classes are taken for) and provenance.json (which data, weights and settings
the scores belong to). The same in `ema/`, if the training left averaged weights. leakage.json: which evaluated pictures the
training has seen. In `routing/`, how a LIMoE routes a sample of the validation pairs (docs/routing.md). A contestant that is not
trained here leaves about.json beside them (what it costs, as far as that is known), or unavailable.json alone (one sentence) if
its weights cannot be fetched. Embeddings of the trained ones are kept below `.limoe/work`, so that what was embedded once is not
again.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from limoe.config import SELECTION_SPLITS, EvaluateParams, Params
from limoe.data.prepared import Prepared
from limoe.dist import pick_device, threads
from limoe.errors import UserError
from limoe.evals.encoder import Encoder, Track
from limoe.evals.leakage import Hasher, TrainingPictures
from limoe.evals.models.opened import Unfetchable
from limoe.evals.models.registry import open_other
from limoe.evals.routing.analysis import analyse
from limoe.evals.routing.pairs import selection_pairs
from limoe.evals.sets import EvalSet, Outcome, confusion_rows, item_table, result_rows
from limoe.evals.suite import content_hashes, headline_metrics, open_encoder, open_external, open_splits, provenance, score
from limoe.evals.zeroshot import PER_CLASS
from limoe.files import atomic_directory, atomic_file, read_json, write_json
from limoe.model.io import read_config
from limoe.paths import Paths
from limoe.provenance import git_commit
from limoe.tracking import open_tracker

PROVENANCE, LEAKAGE, ABOUT, UNAVAILABLE = "provenance.json", "leakage.json", "about.json", "unavailable.json"
# Fixed, because the bits of an embedding depend on it. One: two save 40% of a quarter of a minute where nothing else runs, but
# took seven times as long beside other work, where threads wait for each other.
THREADS = 1


def run(params: Params, paths: Paths, contestant: str) -> None:
    """Score one contestant on every split but the training one; UserError if there is none of this name."""
    if contestant not in params.everyone:
        raise UserError(f"{contestant!r} is no contestant: {', '.join(params.everyone)} are; compare.models takes further ones")
    started = time.monotonic()
    device = pick_device(params.machine.device)
    prepared = Prepared(paths.prepared)
    external = open_external(params.evaluate, paths.root, prepared.splits)
    with open_tracker(params.machine, paths.root, "limoe-evaluate", contestant) as tracker:
        tracker.set_tags({"git_commit": git_commit(), "contestant": contestant} | _health(paths.train(contestant)))
        tracker.log_dataset("prepared", prepared.hash, prepared.root)
        with threads(THREADS), atomic_directory(paths.evaluate(contestant)) as out:
            if contestant in params.compare.others:
                scores = _score_other(params, paths.root, contestant, prepared, external, device, out)
            else:
                scores = _score_trained(params.evaluate, paths, contestant, prepared, external, device, out)
            if scores:
                tracker.log_params(read_json(out / PROVENANCE))
                _record_leakage(prepared, external, paths.embeddings, contestant, out)
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


def _health(trained: Path) -> dict[str, str]:
    """Tags that say what the training went through: its alarms and rollbacks. A model that was not trained here has none."""
    path = trained / "health.json"
    health: dict[str, Any] = read_json(path) if path.is_file() else {"alarms": [], "rollbacks": []}
    told = {
        "alarm": ", ".join(alarm["name"] for alarm in health["alarms"]),
        "rollbacks": "; ".join(f"at step {one['step']} back to the weights of step {one['to']}" for one in health["rollbacks"]),
    }
    return {name: text for name, text in told.items() if text}


def _score_trained(
    params: EvaluateParams,
    paths: Paths,
    contestant: str,
    prepared: Prepared,
    external: Sequence[EvalSet],
    device: torch.device,
    out: Path,
) -> dict[str, float]:
    """A contestant that is trained here: its last weights, and beside them the averaged ones, if there are any."""

    def scored(folder: Path, name: str, out: Path) -> dict[str, float]:
        source = provenance(prepared, folder, params, external)
        with _bars(name) as track:
            encoder = open_encoder(folder, params, device, track, paths.embeddings)
            return _leave(score(encoder, prepared, params, external), source, out)

    scores = scored(paths.model(contestant), contestant, out)
    _record_routing(prepared, paths.model(contestant), params.routing_pairs, device, out / "routing")
    if (averaged := paths.averaged(contestant)).is_dir():
        beside = scored(averaged, f"{contestant}, ema", out / "ema")
        scores |= {f"ema/{name}": value for name, value in beside.items()}
    return scores


def _score_other(
    params: Params, root: Path, name: str, prepared: Prepared, external: Sequence[EvalSet], device: torch.device, out: Path
) -> dict[str, float]:
    """A contestant that is not trained here, with its own tokenizer and preprocessing; no score if it cannot be fetched."""
    try:
        opened = open_other(params.compare.others[name], root, device)
    except Unfetchable as error:
        print(f"evaluate {name}: left out: {error}")
        write_json(out / UNAVAILABLE, {"sentence": str(error)})
        return {}
    write_json(out / ABOUT, asdict(opened.facts))
    source = {
        "data": prepared.hash,
        "sets": content_hashes(external),
        "weights": opened.facts.weights,
        "tokenizer": None,
        "kind": opened.facts.form,
        "evaluate": params.evaluate.model_dump(mode="json"),
    }
    with _bars(name) as track:
        encoder = Encoder(opened.model, opened.tokenize, opened.preprocess, params.evaluate.batch, device, track)
        outcomes = score(encoder, prepared, params.evaluate, external)
    return _leave(outcomes, source, out)


def _leave(outcomes: Sequence[Outcome], source: Mapping[str, Any], out: Path) -> dict[str, float]:
    """Leave what was found in `out`, and return every score but the single classes' as SET/METRIC."""
    rows = result_rows(outcomes)
    write_json(out / "metrics.json", headline_metrics(rows))
    write_json(out / "results.json", rows)
    write_json(out / "confusion.json", confusion_rows(outcomes))
    write_json(out / PROVENANCE, source)
    with atomic_file(out / "items.parquet") as handle:
        pq.write_table(item_table(outcomes), handle)
    return {f"{row['set']}/{row['metric']}": row["value"] for row in rows if not row["metric"].startswith(PER_CLASS)}


def _record_routing(prepared: Prepared, model: Path, pairs: int, device: torch.device, out: Path) -> None:
    """The routing analysis, of a model that routes, where there are validation pairs."""
    if pairs and read_config(model).kind == "limoe" and set(prepared.splits) & set(SELECTION_SPLITS):
        analyse(model, selection_pairs(prepared), pairs, device).save(out)


def _record_leakage(prepared: Prepared, external: Sequence[EvalSet], kept: Path, name: str, out: Path) -> None:
    """Which evaluated pictures are training pictures; what leaks is printed as well."""
    with _bars(name) as track:
        training = TrainingPictures(prepared, Hasher(kept, track))
        found = [training.leakage(data) for data in chain(external, open_splits(prepared))]
    for sentence in chain.from_iterable(leakage.sentences for leakage in found):
        print(f"evaluate {name}: {sentence}")
    write_json(out / LEAKAGE, [leakage.row() for leakage in found])


@contextmanager
def _bars(name: str) -> Iterator[Track]:
    """A progress bar for each thing that is encoded."""
    from rich.progress import Progress

    with Progress(transient=True) as progress:

        def track(steps: Iterable[int], what: str, count: int) -> Iterable[int]:
            return progress.track(steps, total=count, description=f"evaluate {name}: {what}")

        yield track
