"""Stage 1: sources -> data/prepared (shards, tokenizer.json, manifest.json, rejected.parquet)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from limoe import files
from limoe.config import Params
from limoe.data.ingest import ingest
from limoe.data.sources import build, check_sources
from limoe.paths import Paths


def run(params: Params, paths: Paths) -> None:
    """Check the installed packages, ingest the chosen sources and print what came of it.

    UserError: an unknown source, a package that is not what data/sources.yaml says, nothing left to train on.
    """
    start = time.perf_counter()
    packages = check_sources(params.prepare, paths)  # first: sources import them
    sources = build(params.prepare, paths.root)
    with files.atomic_directory(paths.prepared) as folder:
        manifest = ingest(sources, packages, params.prepare, folder)
    files.write_json(paths.timing("prepare"), {"seconds": round(time.perf_counter() - start, 3)})
    print_summary(manifest)


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
    if leaked := ", ".join(f"{count} of {split}" for split, count in manifest["leakage"].items() if count):
        console.print(f"pictures that are also training pictures, byte for byte: {leaked}", soft_wrap=True)
    console.print(f"tokenizer: {manifest['tokenizer']['kind']}, {manifest['tokenizer']['vocab_size']} entries")
