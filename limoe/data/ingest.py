"""Sources in, a prepared set out: every input is checked, and what fails is written down with its reason.

Two rounds of tasks, each done by whatever workers there are. First every part of every source is read and checked. Then, from
34 bytes a row (limoe/data/rows.py), this process decides which rows enter which shard, and each shard is written from the parts.
What is done is not done again, and the bytes depend neither on the number of workers nor on when one was killed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from limoe import files
from limoe.data.assembly import Assembly
from limoe.data.parts import Made, PartTask, Workshop
from limoe.data.prepared import MANIFEST, REJECTED, TOKENIZER, VERSION
from limoe.data.repeats import Evaluated
from limoe.data.schema import TRAIN
from limoe.data.shards import Written
from limoe.data.tokenizer import Tokenizer
from limoe.data.workers import Workers
from limoe.errors import UserError


def ingest(
    shop: Workshop, workers: Workers, packages: Mapping[str, Any], out: Path, evaluated: Evaluated | None = None
) -> dict[str, Any]:
    """Write shards, rejected rows, tokenizer and, last, the manifest into the folder `out`; returns the manifest.

    packages: what sources.check_sources found. evaluated: pictures that must not be trained on. UserError if no training row is
    left, with the commonest reason.
    """
    tasks = shop.tasks()
    assembly = Assembly(shop, tasks, _make(shop, workers, tasks), evaluated)
    if not assembly.count(TRAIN):
        raise UserError(f"nothing is left to train on: {assembly.explain()}")
    splits = _splits(_write(shop, workers, assembly, out))
    assembly.write_rejected(out / REJECTED)
    chosen = shop.params.tokenizer
    tokenizer = Tokenizer.train(_captions(out, splits[TRAIN]), chosen.kind, chosen.vocab_size)
    tokenizer.save(out / TOKENIZER)
    manifest = {
        "version": VERSION,
        "splits": splits,
        "leakage": assembly.leakage(),
        "rejected": assembly.rejected,
        "dropped_captions": assembly.dropped_captions,
        "tokenizer": {
            "kind": chosen.kind,
            "vocab_size": tokenizer.vocab_size,
            "sha256": files.sha256_file(out / TOKENIZER),
        },
        "sources": {
            name: {
                **assembly.content(name),
                **source.provenance(),
                **({"straddling": rows} if (rows := assembly.straddling(name)) else {}),
                "packages": {used.distribution: packages[used.distribution] for used in source.packages(shop.params)},
            }
            for name, source in shop.sources.items()
        },
        "scorer": shop.plan.opens and {"weights": shop.plan.opens.weights},
        "params": shop.params.model_dump(mode="json"),
    }
    files.write_json(out / MANIFEST, manifest)
    return manifest


def _make(shop: Workshop, workers: Workers, tasks: Sequence[PartTask]) -> list[Made]:
    """Every part read, in the order of `tasks`."""
    made: dict[int, Made] = {}
    totals = [source.total for source in shop.sources.values()]
    with _bar("pictures", None if None in totals else sum(filter(None, totals))) as advance:
        for task, part in workers.run(shop.make, tasks):
            made[task.number] = part
            advance(part.rows + sum(part.rejected.values()))
    return [made[task.number] for task in tasks]


def _write(shop: Workshop, workers: Workers, assembly: Assembly, out: Path) -> list[Written]:
    """Every shard written, and brought into `out`; in the order of splits and numbers."""
    shop.shards.mkdir(parents=True, exist_ok=True)
    found = []
    with _bar("in shards", assembly.count()) as advance:
        for written in workers.run(shop.write, assembly.shards(shop.params.shard_rows)):
            files.link(shop.shards / written.file, out / written.file)
            found.append(written)
            advance(written.rows)
    return sorted(found, key=lambda written: (written.split, written.number))


def _splits(shards: Sequence[Written]) -> dict[str, Any]:
    """The manifest's `splits`: rows, shards with their hashes, rows by source."""
    splits: dict[str, Any] = {}
    for shard in shards:
        split = splits.setdefault(shard.split, {"rows": 0, "shards": [], "sources": {}})
        split["rows"] += shard.rows
        split["shards"].append({"file": shard.file, "rows": shard.rows, "sha256": shard.sha256})
        split["sources"] = dict(Counter(split["sources"]) + Counter(shard.sources))
    return splits


def _captions(out: Path, split: Mapping[str, Any]) -> Iterator[str]:
    """All captions of a split, shard by shard."""
    for shard in split["shards"]:
        table = pq.read_table(out / shard["file"], columns=["captions"], partitioning=None)
        yield from chain.from_iterable(table["captions"].to_pylist())


@contextmanager
def _bar(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar, and what moves it on."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:>9}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda rows: progress.advance(task, rows)
