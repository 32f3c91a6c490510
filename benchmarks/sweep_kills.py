"""`python -m benchmarks.sweep_kills`: a tiny sweep whose flow or trial is killed at ten random moments, and started again.

Checks that every trial that had ended was left alone, that none is missing at the end, that each ends with the loss of an
undisturbed sweep, and that MLflow has each once. Some minutes; exits with 1 if any of that does not hold.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from limoe.config import Params
from limoe.files import write_json
from limoe.paths import Paths
from limoe.sweep.outcome import read_outcome
from limoe.sweep.trial import START

ROOT = Path(__file__).resolve().parent.parent
TINY = """
prepare: {sources: [scenes], scenes: {pictures: shapes, train: 64, val: 8, test: 8, canvas: 16}, tokenizer: {vocab_size: 200}}
model:
  tower: {image_size: 16, width: 32, depth: 2, text_length: 20, heads: 2, embed_dim: 8}
  clip: {text_depth: 2}
  moe: {experts: 4, group_pairs: 8}
train: {mixture: {emoji: 0.0, scenes: 1.0}, batch: 16, steps: 60, warmup: 2, threads: 1, checkpoints: {every: 4}, log_every: 2}
machine: {device: cpu, workers: 0}
"""
SPACE = {"train.lr": {"low": 1.0e-4, "high": 1.0e-2, "log": True}}
LAST = 10_000  # characters of a log
EARLY, LONGEST = 0.2, 15.0  # share of kills before the flow has begun; seconds from there to the others: some trials


@dataclass(frozen=True)
class Kill:
    """One kill: seconds after the flow had begun (or was started), the victim, how many trials had ended before, and how many of
    those were not left alone."""

    seconds: float
    victim: str
    ended_before: int
    redone: int


def project(root: Path, tracking: str, changes: str = "{}") -> Path:
    """A project folder with the tiny recipe, changed by an overlay, and its space and data."""
    from limoe.overlay import load_document, merge
    from limoe.stages import prepare

    document = load_document(ROOT / "params.yaml")
    for overlay in (TINY, changes):
        merge(document, yaml.safe_load(overlay))
    values = Params.parse(document, "tiny").model_dump(mode="json")
    values["sweep"], values["machine"]["tracking"] = SPACE, tracking
    root.mkdir()
    (root / "params.yaml").write_text(yaml.safe_dump(values))
    prepare.run(Params.parse(values, "tiny"), Paths(root))
    return root


def start(root: Path, points: int) -> subprocess.Popen[bytes]:
    """The flow, started in the folder."""
    command = [sys.executable, "-m", "flows.sweep", "kills", "--trials", str(points), "--seeds", "1", "--sampler", "sobol"]
    env = {**os.environ, "PREFECT_HOME": str(root / ".prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    with (root / "flow.log").open("ab") as log:
        return subprocess.Popen(command, cwd=root, env=env, stdout=log, stderr=log)


def ended(root: Path) -> dict[str, tuple[float, int]]:
    """Name -> (when, number of launches) of each trial that has ended."""
    return {
        path.parent.name: (path.stat().st_mtime, (path.parent / "log.txt").read_text().count(START))
        for path in (root / "runs" / "sweeps" / "kills").glob("trials/*/outcome.json")
    }


def trial_of(flow: int) -> int | None:
    """A child of the flow that is a trial."""
    children = Path(f"/proc/{flow}/task").glob("*/children")
    for child in (int(pid) for path in children for pid in path.read_text().split()):
        if b"limoe.cli\0trial" in Path(f"/proc/{child}/cmdline").read_bytes():
            return child
    return None


def kill_once(root: Path, points: int, draw: random.Random) -> Kill | None:
    """Start the flow, SIGKILL it or its trial at a random moment, and look at the trials that had ended; None if all had."""
    log = root / "flow.log"
    told, seconds = log.stat().st_size if log.exists() else 0, draw.uniform(0, LONGEST)
    flow = start(root, points)
    early = draw.random() < EARLY
    while not early and flow.poll() is None and b"MLflow: " not in log.read_bytes()[told:]:
        time.sleep(0.05)
    try:
        flow.wait(seconds)
        return None
    except subprocess.TimeoutExpired:
        before, child = ended(root), trial_of(flow.pid)
    if child is not None and draw.random() < 0.5:
        os.kill(child, signal.SIGKILL)
        time.sleep(draw.uniform(0, 2))
        victim = "trial, then flow"
    else:
        victim = "flow"
    flow.kill()
    flow.wait()
    after = ended(root)
    return Kill(round(seconds, 2), victim, len(before), sum(after[name] != told for name, told in before.items()))


def losses(root: Path) -> dict[str, float | None]:
    """Name -> loss of each trial that is `ok`."""
    outcomes = {name: read_outcome(root / "runs" / "sweeps" / "kills" / "trials" / name) for name in ended(root)}
    return {name: outcome.loss for name, outcome in outcomes.items() if outcome is not None and outcome.kind == "ok"}


def recorded(root: Path) -> list[str]:
    """The keys of the trials' runs in MLflow."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiment = client.get_experiment_by_name("limoe-sweep").experiment_id
    runs = client.search_runs([experiment], "tags.`limoe.key` LIKE '%' and tags.`mlflow.parentRunId` LIKE '%'")
    return sorted(run.data.tags["limoe.key"] for run in runs)


def main(argv: list[str] | None = None) -> int:
    """Run it; the exit code."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.sweep_kills", description=__doc__)
    options.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    options.add_argument("--kills", type=int, default=10, help="(default: %(default)s)")
    options.add_argument("--points", type=int, default=12, help="of the sweep (default: %(default)s)")
    options.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    chosen = options.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), chosen.kills, chosen.points, random.Random(chosen.seed))
    for number, kill in enumerate(figures["kills"], 1):
        print(f"{number:3} {kill['seconds']:6.2f} s  {kill['victim']:17} {kill['ended_before']:3} ended, {kill['redone']} redone")
    print(", ".join(f"{name}: {value}" for name, value in figures.items() if name != "kills"))
    if chosen.json is not None:
        write_json(chosen.json, figures)
    return 0 if figures["good"] else 1


def measure(folder: Path, kills: int, points: int, draw: random.Random) -> dict[str, Any]:
    """A sweep that is killed so often, and an undisturbed one: what differs."""
    killed, quiet = project(folder / "killed", "mlflow"), project(folder / "quiet", "none")
    done = [kill for _ in range(kills) if (kill := kill_once(killed, points, draw)) is not None]
    before = ended(killed)
    for root in (killed, quiet):
        if start(root, points).wait():
            raise SystemExit(f"the {root.name} sweep did not end well:\n{(root / 'flow.log').read_text()[-LAST:]}")
    wanted, found = losses(quiet), losses(killed)
    redone = sum(kill.redone for kill in done) + sum(ended(killed)[name] != told for name, told in before.items())
    lost, differ = len(wanted.keys() - found.keys()), sum(found.get(name, loss) != loss for name, loss in wanted.items())
    once = recorded(killed) == sorted(ended(killed))
    launches = sum(count for _, count in ended(killed).values())
    good = not (lost or redone or differ) and once and len(done) == kills and found.keys() == wanted.keys()
    return {
        "kills": [asdict(kill) for kill in done],
        "trials": len(found),
        "launches": launches,
        "lost": lost,
        "redone": redone,
        "other losses": differ,
        "each once in MLflow": once,
        "good": good,
    }


if __name__ == "__main__":
    raise SystemExit(main())
