"""Stage 2: data/prepared -> runs/balance.

balance.json for DVC, suggestion.json for training, suggestion.yaml for people, report.json with everything, PNG plots,
balance.html.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from limoe.config import Params
from limoe.data.balance import analyse
from limoe.data.prepared import Prepared
from limoe.data.suggestion import AUTO, FILE, OVERLAY, overlay, suggestion, with_values
from limoe.files import atomic_directory, write_bytes, write_json, write_text
from limoe.paths import Paths
from limoe.report.balance import document
from limoe.report.balance_summary import print_summary
from limoe.report.page import to_html
from limoe.report.stills import caption_lengths, drops, tokens
from limoe.train.untrained import untrained


def run(params: Params, paths: Paths) -> None:
    """Analyse the training and validation splits, write what came of it and print its summary."""
    start = time.perf_counter()
    prepared = Prepared(paths.prepared)
    report = analyse(prepared, params, bar)
    resolved = with_values(params, report.suggestion) if params.model.moe.router == AUTO else params
    fresh = untrained(resolved, prepared, bar)
    with atomic_directory(paths.balance) as folder:
        write_json(folder / "balance.json", report.metrics() | ({} if fresh is None else {"untrained": fresh.metrics()}))
        write_json(folder / FILE, suggestion(report.suggestion, params, prepared.hash))
        write_text(folder / OVERLAY, overlay(report.suggestion))
        write_json(folder / "report.json", report.to_dict() | {"untrained": None if fresh is None else asdict(fresh)})
        write_bytes(folder / "caption_lengths.png", caption_lengths(report))
        write_bytes(folder / "tokens.png", tokens(report))
        write_bytes(folder / "drops.png", drops(report, fresh))
        write_text(folder / "balance.html", to_html(document(report, fresh)))
    write_json(paths.timing("balance"), {"seconds": round(time.perf_counter() - start, 3)})
    print_summary(report, fresh)
    print(f"all figures and plots: {paths.balance / 'balance.html'}")
    print(f"what it suggests: limoe params --overlay {paths.balance / OVERLAY}, or model.moe.router: {AUTO}")


def bar(steps: Sequence[int], what: str) -> Iterable[int]:
    """`steps`, with a progress bar that disappears at the end; none where there is no terminal."""
    from rich.console import Console
    from rich.progress import track

    return track(steps, description=what, transient=True, disable=not Console().is_terminal)
