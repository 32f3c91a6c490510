"""`python -m benchmarks.checkpoints`: what it costs a training to be saved, a save every 100 steps against none.

Two trainings of params.yaml's limoe take turns, 100 steps each, of `Trainer.run` with its log. The save falls in the middle of
one's turn, so that what is written in the background is written while that training goes on, and it is waited for at the end of
the turn: all that a save costs falls on whom it belongs to.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.harness import Subject, bench_of, compare, parser, positive
from benchmarks.layers import PARAMS
from benchmarks.report import Report
from benchmarks.step import QUICK, trainer_of
from limoe.config import Params
from limoe.train.loop import Trainer

BAR = 1.05  # of the time without a save
NEVER = 10**9  # steps
NAMES = {"saved": "a save a turn", "unsaved": "none"}


def trainer_at(params: Params, every: int, turn: int, device: torch.device, folder: Path) -> Trainer:
    """A training that is saved at every `every` steps and stands half a turn before a multiple of them."""
    checkpoints = params.train.checkpoints.model_copy(update={"every": every, "minutes": None})
    train = params.train.model_copy(update={"checkpoints": checkpoints, "steps": NEVER - 1})
    trainer = trainer_of(params.model_copy(update={"train": train}), "limoe", device, folder)
    trainer.step = turn // 2
    return trainer


def subject_of(trainer: Trainer, name: str, turn: int) -> Subject:
    """A turn a run."""
    return Subject(name, lambda: trainer.run(trainer.step + turn))


def saved_bytes(folder: Path) -> int:
    """Of the newest checkpoint under `folder`."""
    newest = max(folder.rglob("step-*"))
    return sum(path.stat().st_size for path in newest.iterdir())


def main(argv: Sequence[str] | None = None) -> Report:
    """Measure what the options ask for; the report, printed and written."""
    options = parser("checkpoints", __doc__ or "", 5)
    options.add_argument("--steps", type=positive, default=100, help="between two saves (default: %(default)s)")
    options.add_argument("--folder", type=Path, default=Path(), help="on the disk that trainings are saved on (default: here)")
    options.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a change of params.yaml")
    chosen = options.parse_args(argv)
    bench = replace(bench_of(chosen), warmup=1)
    params = Params.load(PARAMS, (*(QUICK if chosen.quick else ()), *chosen.set))
    turn = 4 if chosen.quick else chosen.steps
    report = Report("checkpoints", bench.device, {"repeats": bench.repeats, "changes": chosen.set, "steps": turn})
    report.start()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        trainers = {
            name: trainer_at(params, every, turn, bench.device, Path(folder) / name)
            for name, every in (("saved", turn), ("unsaved", NEVER))
        }
        samples = bench.interleave([subject_of(trainer, NAMES[name], turn) for name, trainer in trainers.items()])
        report.note(f"a checkpoint is {saved_bytes(Path(folder) / 'saved') / 1e6:.1f} MB")
    report.add(compare(f"{turn} steps of limoe", samples, NAMES["unsaved"], bars={NAMES["saved"]: BAR}))
    report.finish(chosen.json)
    return report


if __name__ == "__main__":
    main(sys.argv[1:])
