"""`python -m benchmarks.balance`: what is predicted of dropped tokens before a training, beside what trainings drop.

For each setting: an untrained model (limoe.train.untrained), a rehearsal of the first steps (limoe.rehearse), the closed form of
uniform routing, and the first steps of trainings with other seeds. On emoji and, where `--flickr` names the folder of its tars,
on Flickr8k. Writes docs/balance/predictions.json and the table in docs/balance.md. About ten minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev

from benchmarks.flickr import unpack
from limoe.config import Params
from limoe.data.balance import analyse
from limoe.data.prepared import Prepared
from limoe.files import write_json, write_text
from limoe.paths import Paths
from limoe.rehearse import first_steps, rehearse
from limoe.stages import prepare
from limoe.stages.balance import bar
from limoe.train.untrained import untrained

ROOT = Path(__file__).resolve().parent.parent
PAGE, NUMBERS = ROOT / "docs" / "balance.md", ROOT / "docs" / "balance" / "predictions.json"
MARK = "<!-- python -m benchmarks.balance writes from here to the end -->\n"
STEPS, TRAININGS, REHEARSALS = 20, 5, 10
WITHIN = 0.03  # of the measured mean, absolute
COMMON = ("machine.tracking=none", "machine.workers=0", "train.threads=1", "train.precision=float32", "train.batch=64")
SOURCES = {
    "emoji": ("prepare.sources=[emoji]", "train.mixture={emoji: 1}"),
    "Flickr8k": (
        "prepare.sources=[folder]",
        "train.mixture={folder: 1}",
        "prepare.folder.images=images",
        "prepare.folder.captions=captions.csv",
    ),
}


@dataclass(frozen=True)
class Setting:
    """data: of SOURCES. The rest are keys of model.moe."""

    data: str
    experts: int = 16
    group_pairs: int = 64
    capacity_factor: float = 1.05
    priority: str = "bpr"
    k: int = 1
    blocks: str = "every-second"

    @property
    def words(self) -> str:
        """In a table."""
        beside = ", K 2" if self.k == 2 else "", ", all blocks sparse" if self.blocks != "every-second" else ""
        return (
            f"{self.priority}, E {self.experts}, groups of {self.group_pairs}, capacity {self.capacity_factor}{''.join(beside)}"
        )

    def params(self) -> Params:
        """The project's defaults with this setting and what all settings have in common."""
        moe = {name: value for name, value in asdict(self).items() if name != "data"}
        changes = tuple(f"model.moe.{name}={value}" for name, value in moe.items())
        return Params.load(ROOT / "params.yaml", (*SOURCES[self.data], *COMMON, *changes))


SETTINGS = (
    Setting("emoji"),
    Setting("Flickr8k"),
    Setting("emoji", experts=8, capacity_factor=1.5),
    Setting("Flickr8k", priority="text-first"),
    Setting("Flickr8k", experts=8, group_pairs=16),
    Setting("emoji", experts=4, group_pairs=32, priority="shuffled"),
    Setting("Flickr8k", experts=32, priority="shuffled"),
    Setting("emoji", experts=32, capacity_factor=2.0),
    Setting("Flickr8k", experts=8, capacity_factor=1.5, priority="first-come"),
    Setting("emoji", priority="image-first"),
    Setting("Flickr8k", k=2),
    Setting("emoji", blocks="last-4"),
)


@dataclass(frozen=True)
class Result:
    """Shares dropped, each (text, image). rehearsed_S, measured_S: of the first STEPS steps, one a seed; first_S: of the measured
    trainings' first step alone."""

    setting: Setting
    uniform: tuple[float, float]
    untrained: tuple[float, float]
    rehearsed_S: list[tuple[float, float]]
    measured_S: list[tuple[float, float]]
    first_S: list[tuple[float, float]]

    @property
    def predicted(self) -> tuple[float, float]:
        """By the rehearsal."""
        return _mean(self.rehearsed_S)

    @property
    def measured(self) -> tuple[float, float]:
        """By the trainings."""
        return _mean(self.measured_S)

    @property
    def error(self) -> float:
        """The larger of the two modalities' distances between predicted and measured."""
        return max(abs(one - other) for one, other in zip(self.predicted, self.measured, strict=True))

    def noise(self, modality: int) -> float:
        """Standard error of the measured mean."""
        return stdev(steps[modality] for steps in self.measured_S) / len(self.measured_S) ** 0.5


def run(setting: Setting, root: Path, trainings: int = TRAININGS, rehearsals: int = REHEARSALS) -> Result:
    """Predict and measure one setting, on the prepared set under `root`."""
    params, paths = setting.params(), Paths(root)
    prepared = Prepared(paths.prepared)
    fresh = untrained(params, prepared, bar)
    assert fresh is not None
    uniform = analyse(prepared, params, bar).scopes[0].routing.random_dropped[setting.priority]
    (rehearsal,) = rehearse(params, paths, [params.model.moe.priority], rehearsals, STEPS)
    measured = [first_steps(params, paths, seed, STEPS) for seed in bar(range(trainings), "trainings")]
    text, image = fresh.own.dropped
    return Result(
        setting,
        uniform,
        (text.mean, image.mean),
        [_mean(steps) for steps in rehearsal.dropped_SNM],
        [_mean(steps) for steps in measured],
        [steps[0] for steps in measured],
    )


def _mean(rows: Sequence[tuple[float, float]]) -> tuple[float, float]:
    text, image = (fmean(column) for column in zip(*rows, strict=True))
    return text, image


def prepare_data(name: str, root: Path, flickr: Path | None) -> None:
    """A prepared set of SOURCES under `root`."""
    (root / "data").mkdir(parents=True)
    shutil.copy(ROOT / "data" / "sources.yaml", root / "data")
    if name == "Flickr8k":
        assert flickr is not None
        unpack(flickr, root)
    prepare.run(Setting(name).params(), Paths(root))


TEXT = """\
## Predicted and measured

Shares of text / images dropped, in percent, the mean over the sparse blocks: the default recipe and tower (48 px in patches
of 8) in batches of 64 pairs. *Rehearsed*: `limoe rehearse`, {rehearsals} seeds. *Measured*: the first {steps} steps of
{trainings} trainings with other seeds, and the standard error of that mean. *Untrained* is what `limoe balance` says, *step 1*
its counterpart in those trainings, *uniform* the closed form. Rehearsed and measured are within {within:.0f} points of each
other in both modalities in {near} of {all} settings.

| data | setting | uniform | untrained | step 1 | rehearsed | measured | standard error |
|---|---|---|---|---|---|---|---|
"""


def page(results: Sequence[Result]) -> str:
    """The part of docs/balance.md below MARK."""
    near = sum(result.error <= WITHIN for result in results)
    counts = {"rehearsals": REHEARSALS, "steps": STEPS, "trainings": TRAININGS, "near": near, "all": len(results)}
    return TEXT.format(**counts, within=100 * WITHIN) + "".join(map(_line, results))


def _line(result: Result) -> str:
    shares = [result.uniform, result.untrained, _mean(result.first_S), result.predicted, result.measured]
    shares.append((result.noise(0), result.noise(1)))
    cells = [f"{100 * text:.1f} / {100 * image:.1f}" for text, image in shares]
    return f"| {' | '.join([result.setting.data, result.setting.words, *cells])} |\n"


def read(numbers: Path = NUMBERS) -> list[Result]:
    """The results that were written."""
    return [Result(**one | {"setting": Setting(**one["setting"])}) for one in json.loads(numbers.read_text(encoding="utf-8"))]


def main(argv: Sequence[str] | None = None) -> int:
    """Predict and measure every setting whose data are there, and write numbers and page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--flickr", type=Path, help="the folder of Flickr8k's tars; without it emoji alone")
    parser.add_argument("--page-only", action="store_true", help="write the page from the numbers that are there")
    options = parser.parse_args(argv)
    if not options.page_only:
        results = []
        with tempfile.TemporaryDirectory() as folder:
            for name in [name for name in SOURCES if name == "emoji" or options.flickr]:
                prepare_data(name, Path(folder, name), options.flickr)
            for setting in [setting for setting in SETTINGS if Path(folder, setting.data).exists()]:
                results.append(run(setting, Path(folder, setting.data)))
                print(_line(results[-1]), end="", flush=True)
        write_json(NUMBERS, [asdict(result) for result in results])
    kept = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
    write_text(PAGE, kept + MARK + "\n" + page(read()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
