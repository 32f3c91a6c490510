"""Stage 2: data/prepared -> runs/balance.

balance.json for DVC, thresholds.json for training, report.json with everything, two PNG plots, balance.html.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from limoe.config import Params
from limoe.data.balance import analyse
from limoe.data.prepared import Prepared
from limoe.data.thresholds import FILE, suggestion
from limoe.files import atomic_directory, write_bytes, write_json, write_text
from limoe.paths import Paths
from limoe.report.balance import document
from limoe.report.balance_summary import print_summary
from limoe.report.page import to_html
from limoe.report.stills import caption_lengths, tokens


def run(params: Params, paths: Paths) -> None:
    """Analyse the training and validation splits, write what came of it and print its summary."""
    start = time.perf_counter()
    prepared = Prepared(paths.prepared)
    report = analyse(prepared, params.model, params.balance, params.train.mixture, bar)
    routing = report.scopes[0].routing
    with atomic_directory(paths.balance) as folder:
        write_json(folder / "balance.json", report.metrics())
        write_json(folder / FILE, suggestion(routing.tau_text, routing.tau_image, params, prepared.hash))
        write_json(folder / "report.json", report.to_dict())
        write_bytes(folder / "caption_lengths.png", caption_lengths(report))
        write_bytes(folder / "tokens.png", tokens(report))
        write_text(folder / "balance.html", to_html(document(report)))
    write_json(paths.timing("balance"), {"seconds": round(time.perf_counter() - start, 3)})
    print_summary(report)
    print(f"all figures and plots: {paths.balance / 'balance.html'}")


def bar(steps: Sequence[int], what: str) -> Iterable[int]:
    """`steps`, with a progress bar that disappears at the end; none where there is no terminal."""
    from rich.console import Console
    from rich.progress import track

    return track(steps, description=what, transient=True, disable=not Console().is_terminal)
