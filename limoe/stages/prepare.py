"""Stage 1: sources -> data/prepared (shards, tokenizer.json, manifest.json, rejected.parquet)."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from limoe import files
from limoe.config import Params
from limoe.data.checks import Opens
from limoe.data.ingest import ingest
from limoe.data.parts import Plan, Workshop, part_settings
from limoe.data.repeats import Evaluated
from limoe.data.sources import build, check_sources
from limoe.data.workers import open_workers
from limoe.errors import UserError
from limoe.paths import Paths, fingerprint
from limoe.provenance import code_hash

LOCK = "prepare.lock"


def run(params: Params, paths: Paths) -> None:
    """Check the installed packages, ingest the chosen sources and print what came of it.

    What a killed run of the same data and code has finished is not done again, unless it depends on params that are other ones
    now. UserError: an unknown source, a package that is not what data/sources.yaml says, nothing left to train on, another
    `prepare` at work here.
    """
    start, parent = time.perf_counter(), os.getppid()
    packages = check_sources(params.prepare, paths)  # first: sources import them
    with files.exclusive_lock(paths.work(LOCK), "prepare"):
        sources = build(params.prepare, paths.root)
        told = {name: [source.provenance(), list(map(asdict, source.parts))] for name, source in sources.items()}
        opens = _opens_scorer(params, paths)
        name = fingerprint(
            params=part_settings(params.prepare),
            packages=packages,
            sources=told,
            scorer=opens and opens.weights,
            code=code_hash(__name__),
        )
        work = paths.work(f"prepare-{name}")
        _discard(paths, but=work)
        shop = Workshop(Plan.of(params.prepare, paths.root, work, opens), sources)
        with files.atomic_directory(paths.prepared) as folder, open_workers(params.machine) as workers:
            manifest = ingest(shop, workers, packages, folder, _evaluated(params, paths))
    files.write_json(paths.timing("prepare"), {"seconds": round(time.perf_counter() - start, 3)})
    print_summary(manifest)
    if os.getppid() == parent:  # else whoever started this has died, will not know of it, and starts it again
        with suppress(UserError), files.exclusive_lock(paths.work(LOCK), "prepare"):
            _discard(paths)


def print_summary(manifest: Mapping[str, Any]) -> None:
    """A table of rows by split and source, what was rejected and why, what leaked, and the tokenizer."""
    from rich.console import Console
    from rich.table import Table

    names = list(manifest["sources"])
    table = Table("split", *names, "rows", title="prepared")
    for column in table.columns[1:]:
        column.justify = "right"
    for split, counts in manifest["splits"].items():
        table.add_row(split, *(str(counts["sources"].get(name, "")) for name in names), str(counts["rows"]))
    console = Console()
    console.print(table)
    rejected = manifest["rejected"]
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(rejected.items()))
    console.print(f"rejected: {sum(rejected.values())}{f' ({reasons}; see rejected.parquet)' if rejected else ''}")
    if dropped := manifest["dropped_captions"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items()))
        console.print(f"captions left out of records: {sum(dropped.values())} ({reasons})")
    if leaked := ", ".join(f"{count} of {split}" for split, count in manifest["leakage"].items() if count):
        console.print(f"pictures that are also training pictures, byte for byte: {leaked}", soft_wrap=True)
    counts = {name: source.get("straddling", 0) for name, source in manifest["sources"].items()}
    if apart := ", ".join(f"{count} of {name}" for name, count in counts.items() if count):
        console.print(f"rows that their set names into another split than an equal picture: {apart}", soft_wrap=True)
    console.print(f"tokenizer: {manifest['tokenizer']['kind']}, {manifest['tokenizer']['vocab_size']} entries")


def _opens_scorer(params: Params, paths: Paths) -> Opens | None:
    """The model of prepare.clip_score, if there is one. Only then torch is imported."""
    if params.prepare.clip_score is None:
        return None
    from limoe.evals.scoring import OpensScorer

    return OpensScorer.of(params.prepare.clip_score.model, paths.root, params.machine.device)


def _evaluated(params: Params, paths: Paths) -> Evaluated | None:
    """The pictures of the sets that prepare.duplicates.against names. Only then evaluation is imported, and torch with it."""
    asked = params.prepare.duplicates
    if not asked.against:
        return None
    from rich.progress import Progress

    from limoe.evals.external import open_set
    from limoe.evals.leakage import Hasher, evaluated_pictures

    sets = [open_set(name, params.evaluate.sets[name], paths.root) for name in asked.against]
    if asked.radius is None:
        return evaluated_pictures(sets, None)
    with Progress(transient=True) as progress:

        def track(steps: Iterable[int], what: str, count: int) -> Iterable[int]:
            return progress.track(steps, total=count, description=what)

        return evaluated_pictures(sets, Hasher(paths.embeddings, track))


def _discard(paths: Paths, but: Path | None = None) -> None:
    """Resumable state that is not needed any more, or whose parts are of other params, data or code: never resumed from."""
    for folder in paths.work("").glob("prepare-*"):
        if folder != but:
            shutil.rmtree(folder)
