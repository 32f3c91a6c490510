"""What `python -m benchmarks.balance` predicts and measures: a setting, its figures, and their page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev

from limoe.config import Params
from limoe.files import write_text

ROOT = Path(__file__).resolve().parent.parent
PAGE, NUMBERS = Path("docs") / "balance.md", Path("docs") / "balance" / "predictions.json"
MARK = "<!-- python -m benchmarks.balance writes from here to the end -->\n"
STEPS, TRAININGS, REHEARSALS = 20, 5, 10
WITHIN = 0.03  # of the measured mean, absolute
COMMON = ("machine.tracking=none", "machine.workers=0", "train.threads=1", "train.precision=float32", "train.batch=64")
SOURCES = {
    "emoji": ("prepare.sources=[emoji]", "train.mixture={emoji: 1}"),
    "Flickr8k": (
        "prepare.sources=[flickr8k]",
        "prepare.sets={flickr8k: {path: flickr8k, kind: webdataset}}",
        "train.mixture={flickr8k: 1}",
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
        return mean(self.rehearsed_S)

    @property
    def measured(self) -> tuple[float, float]:
        """By the trainings."""
        return mean(self.measured_S)

    @property
    def error(self) -> float:
        """The larger of the two modalities' distances between predicted and measured."""
        return self.distance(self.predicted)

    def distance(self, shares: tuple[float, float]) -> float:
        """The larger of the two modalities' distances between these shares and the measured ones."""
        return max(abs(one - other) for one, other in zip(shares, self.measured, strict=True))

    def noise(self, modality: int) -> float:
        """Standard error of the measured mean."""
        return stdev(steps[modality] for steps in self.measured_S) / len(self.measured_S) ** 0.5


def mean(rows: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Over steps or seeds, for each modality."""
    text, image = (fmean(column) for column in zip(*rows, strict=True))
    return text, image


TEXT = """\
## Predicted and measured

Shares of text / images dropped, in percent, the mean over the sparse blocks: the default recipe and tower (48 px in patches
of 8) in batches of 64 pairs. *Rehearsed*: `limoe rehearse`, {rehearsals} seeds. *Measured*: the first {steps} steps of
{trainings} trainings with other seeds, and the standard error of that mean. *Untrained* is what `limoe balance` says, *step 1*
its counterpart in those trainings, *uniform* the closed form. Rehearsed and measured are within {within} points of each
other in both modalities in {near} of {all} settings, untrained and measured in {near_untrained}: no forward pass sees how fast
routing moves. Five trainings differ by the luck of their weights, which bounds what any prediction can reach.

| data | setting | uniform | untrained | step 1 | rehearsed | measured | standard error |
|---|---|---|---|---|---|---|---|
"""


def page(results: Sequence[Result]) -> str:
    """The part of docs/balance.md below MARK."""
    near = sum(result.error <= WITHIN for result in results)
    near_untrained = sum(result.distance(result.untrained) <= WITHIN for result in results)
    counts = {"rehearsals": REHEARSALS, "steps": STEPS, "trainings": TRAININGS, "within": round(100 * WITHIN)}
    counts |= {"near": near, "near_untrained": near_untrained, "all": len(results)}
    return TEXT.format(**counts) + "".join(map(line, results))


def line(result: Result) -> str:
    shares = [result.uniform, result.untrained, mean(result.first_S), result.predicted, result.measured]
    shares.append((result.noise(0), result.noise(1)))
    cells = [f"{100 * text:.1f} / {100 * image:.1f}" for text, image in shares]
    return f"| {' | '.join([result.setting.data, result.setting.words, *cells])} |\n"


def read(numbers: Path) -> list[Result]:
    """The results that were written."""
    found = json.loads(numbers.read_text(encoding="utf-8"))
    return [Result(**one | {"setting": Setting(**one["setting"])}) for one in found]


def write_page(root: Path) -> None:
    """Put the figures of the results under `root` into its page, below MARK."""
    kept = (root / PAGE).read_text(encoding="utf-8").partition(MARK)[0]
    write_text(root / PAGE, kept + MARK + "\n" + page(read(root / NUMBERS)))
