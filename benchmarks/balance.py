"""`python -m benchmarks.balance`: what is predicted of dropped tokens before a training, beside what trainings drop.

For each setting: an untrained model (limoe.train.untrained), a rehearsal of the first steps (limoe.rehearse), the closed form of
uniform routing, and the first steps of trainings with other seeds. On emoji and, where `--flickr` names the folder of its tars,
on Flickr8k. Writes docs/balance/predictions.json and the table in docs/balance.md. About ten minutes of one core.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.balance_results import (
    NUMBERS,
    REHEARSALS,
    ROOT,
    SOURCES,
    STEPS,
    TRAININGS,
    Result,
    Setting,
    line,
    mean,
    write_page,
)
from limoe.data.balance import analyse
from limoe.data.prepared import Prepared
from limoe.files import write_json
from limoe.paths import Paths
from limoe.rehearse import first_steps, rehearse
from limoe.stages import prepare
from limoe.stages.balance import bar
from limoe.train.untrained import untrained

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
        [mean(steps) for steps in rehearsal.dropped_SNM],
        [mean(steps) for steps in measured],
        [steps[0] for steps in measured],
    )


def prepare_data(name: str, root: Path, flickr: Path | None) -> None:
    """A prepared set of SOURCES under `root`."""
    (root / "data").mkdir(parents=True)
    shutil.copy(ROOT / "data" / "sources.yaml", root / "data")
    if name == "Flickr8k":
        assert flickr is not None
        (root / "flickr8k").symlink_to(flickr.resolve())
    prepare.run(Setting(name).params(), Paths(root))


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
                print(line(results[-1]), end="", flush=True)
        write_json(ROOT / NUMBERS, [asdict(result) for result in results])
    write_page(ROOT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
