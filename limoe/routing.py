"""`limoe routing`: how any model directory routes any pairs, as a page, pictures and numbers."""

from __future__ import annotations

from pathlib import Path

from limoe.data.prepared import Prepared
from limoe.dist import pick_device
from limoe.errors import UserError
from limoe.evals.routing.analysis import analyse
from limoe.evals.routing.pairs import open_pairs, selection_pairs
from limoe.evals.routing.stored import NUMBERS
from limoe.files import atomic_directory
from limoe.paths import Paths
from limoe.report.routing_analysis import headline
from limoe.report.routing_files import PAGE, write


def show(
    model: Path, images: Path | None, captions: Path | None, split: str | None, pairs: int, out: Path, paths: Paths, device: str
) -> str:
    """Analyse, write into `out` and print what came of it; returns what to do next.

    UserError if `out` is a folder of something else, since it is replaced as a whole.
    """
    if out.exists() and not (out / NUMBERS).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: holds something else than a routing analysis; name another folder with --out")
    if images is None and captions is not None:
        raise UserError(f"{captions}: captions without pictures are no pairs; name the pictures with --images")
    data = selection_pairs(Prepared(paths.prepared), split) if images is None else open_pairs(images, captions, split)
    analysis = analyse(model, data, pairs, pick_device(device))
    with atomic_directory(out) as folder:
        write(folder, analysis)
    print(headline(analysis.numbers))
    return f"open {out / PAGE}"
