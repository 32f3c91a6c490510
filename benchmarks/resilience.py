"""`python -m benchmarks.resilience`: trainings that are killed, whose disk is full, whose checkpoints are damaged, and go on.

Each case is a debug training of its own, disturbed once and started again. What it ends with is compared with an undisturbed
one: weights, optimiser state, averaged weights, position in the data, metrics, routing, the model directory, and the points in
MLflow. Kills come at random moments between the first checkpoint and the end; for two in five of them the process kills itself in
the middle of writing a checkpoint. Of a training in two processes one is killed. A full disk is a tmpfs (needs root, or
`unshare --map-root-user --mount` before the command).
Some minutes; exits with 1 if any case ends otherwise.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from benchmarks.faults import FULL, KEPT, LOG, PLACES, PRUNING, Fault, rank_of, train
from benchmarks.sweep_kills import project
from limoe.files import sha256_file, write_json
from limoe.train.checkpoint import STATE, TENSORS, Checkpoints

EVERY = 5  # steps between checkpoints
SETTINGS = """
train: {{steps: {steps}, checkpoints: {{every: {every}}}, log_every: 5, ema: 0.9, export: best}}
machine: {{processes: {processes}}}
"""
WORK = Path(".limoe", "work")
WITHIN = 0.4  # share of the kills that come within a save
POLL_SECONDS = 0.002
ATTEMPTS = 20  # to kill a training before it ends

IMPORTS = ("benchmarks.faults", "torch._inductor", "matplotlib.backends.backend_agg")  # done once, for all trainings

processes = multiprocessing.get_context("forkserver")  # each training is a process of its own, forked from one that has imported
processes.set_forkserver_preload(list(IMPORTS))


@dataclass(frozen=True)
class Case:
    """what: was done. back_to: the step that the second start went on from. differs: what is not as in the undisturbed run."""

    what: str
    back_to: int
    differs: list[str]
    told: str = ""

    def __str__(self) -> str:
        same = f"other {', '.join(self.differs)}" if self.differs else "the same"
        return f"{self.what:48} back to step {self.back_to:3}: {same}" + (f"; it said: {self.told}" if self.told else "")


class Trainings:
    """Debug trainings under `folder`, each in a copy of one prepared project; `undisturbed` is what they must end with."""

    def __init__(self, folder: Path, tracking: str, steps: int, draw: random.Random, processes: int = 1) -> None:
        self.folder, self.draw, self.saves = folder, draw, steps // EVERY
        folder.mkdir(exist_ok=True)
        self._template = project(folder / "template", tracking, SETTINGS.format(steps=steps, every=EVERY, processes=processes))
        if tracking == "mlflow":
            from limoe.config import Params
            from limoe.tracking import open_tracker

            processes.set_forkserver_preload([*IMPORTS, "mlflow"])
            open_tracker(Params.load(self._template / "params.yaml").machine, self._template, "set-up", "creates the store")
        root = self.new("undisturbed")
        self.seconds = self._time(root)
        self.undisturbed = ending(root)
        self.bytes = sum(path.stat().st_size for path in newest(root / KEPT).iterdir())

    def new(self, name: str) -> Path:
        """A project that nothing has run in yet."""
        root = self.folder / name
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(self._template, root)
        return root

    def killed(self, number: int, place: str | None) -> Case:
        """Killed once: at a random moment (None), or within a save."""
        for _ in range(ATTEMPTS):
            root = self.new(f"killed-{number}")
            fault = None if place is None else Fault(place, self.draw.randint(2, self.saves - 1), self.draw.random())
            process, moment = start(root, fault), self.draw.uniform(0, self.seconds)
            if fault is None and await_checkpoint(root, process):
                process.join(moment)
                process.kill()
            process.join()
            if process.exitcode:
                break
        else:
            raise SystemExit(f"no training could be killed in {ATTEMPTS} attempts; the last:\n{said(root)}")
        what = f"killed after {moment:.2f} s" if fault is None else f"killed in save {fault.save}, {place}"
        return self.goes_on(root, what)

    def rank_killed(self) -> Case:
        """One of two processes, killed at a random moment of the first half: the other is ended, and a sentence says why."""
        for _ in range(ATTEMPTS):
            root = self.new("rank-killed")
            process, moment = start(root), self.draw.uniform(0, self.seconds / 2)
            if await_checkpoint(root, process):
                process.join(moment)
                if (victim := rank_of(process.pid or 0, 1)) is not None:
                    os.kill(victim, signal.SIGKILL)
            process.join()
            if process.exitcode:
                break
        else:
            raise SystemExit(f"no process could be killed in {ATTEMPTS} attempts; the last:\n{said(root)}")
        missed = [] if "error: process 1 of 2 was ended by SIGKILL" in said(root) else ["sentence"]
        case = self.goes_on(root, f"one of two processes killed after {moment:.2f} s")
        return Case(case.what, case.back_to, case.differs + missed)

    def damaged(self, how: str) -> Case:
        """Killed with several checkpoints there, the newest of which is then damaged."""
        root = self.new(how)
        start(root, Fault(PRUNING, self.draw.randint(3, self.saves - 1))).join()
        folder = newest(next((root / WORK).glob("train-limoe-*/")))
        file = folder / self.draw.choice([TENSORS, STATE])
        content = bytearray(file.read_bytes())
        place = self.draw.randrange(len(content))
        if how == "a flipped bit":
            content[place] ^= 1 << self.draw.randrange(8)
        file.write_bytes(content if how == "a flipped bit" else content[:place])
        case = self.goes_on(root, f"{how} in {folder.name}/{file.name}")
        missed = [] if f"{folder.name} is damaged" in case.told else ["message"]
        return Case(case.what, case.back_to, case.differs + missed, case.told)

    def full_disk(self) -> Case:
        """Its checkpoints lie on a disk with room for two and a half of them, and then on a larger one."""
        root = self.new("full")
        with small_disk(root / WORK, int(2.5 * self.bytes)) as grow:
            process = start(root, None if grow else Fault(FULL, 3))
            process.join()
            sentence = said(root)
            found = Checkpoints(newest(next((root / WORK).glob("train-limoe-*/"))).parent, 2).latest()
            if grow:
                subprocess.run(grow, check=True)
            case = self.goes_on(root, "a full disk" if grow else "a full disk, injected: no tmpfs can be mounted here")
        clear = process.exitcode == 1 and "error: no space left on the disk" in sentence
        intact = found is not None and found.step == case.back_to
        missed = [what for what, good in (("sentence", clear), ("checkpoint before", intact)) if not good]
        return Case(case.what, case.back_to, case.differs + missed, sentence.splitlines()[-1])

    def goes_on(self, root: Path, what: str) -> Case:
        """Started again, and compared."""
        before = len(said(root))
        process = start(root)
        process.join()
        told = said(root)[before:]
        if process.exitcode:
            raise SystemExit(f"{what}: it did not go on:\n{told}")
        found = ending(root)
        step = told.partition("continuing from step ")[2].partition(" ")[0]
        warning = next((line for line in told.splitlines() if "is damaged" in line), "")
        return Case(what, int(step or 0), [name for name, value in self.undisturbed.items() if found[name] != value], warning)

    @staticmethod
    def _time(root: Path) -> float:
        """Run it to its end; the seconds from its first checkpoint to there."""
        process = start(root)
        await_checkpoint(root, process)
        begun = time.perf_counter()
        process.join()
        if process.exitcode:
            raise SystemExit(f"the undisturbed training did not end well:\n{said(root)}")
        return time.perf_counter() - begun


def start(root: Path, fault: Fault | None = None) -> BaseProcess:
    """The training, in a process of its own."""
    process = processes.Process(target=train, args=(root, fault))
    process.start()
    return process


def await_checkpoint(root: Path, process: BaseProcess) -> bool:
    """Wait for the training's first checkpoint; whether it came before the process ended."""
    while process.exitcode is None:
        if any((root / WORK).glob("train-limoe-*/checkpoints/step-*")):
            return True
        time.sleep(POLL_SECONDS)
    return False


def said(root: Path) -> str:
    """All that the trainings of this project have said."""
    log = root / LOG
    return log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""


def newest(folder: Path) -> Path:
    """The last checkpoint of a training's folder."""
    return max((folder / "checkpoints").glob("step-*"))


def ending(root: Path) -> dict[str, Any]:
    """What a finished training ended with, by name, without seconds and times of day."""
    last, out = newest(root / KEPT), root / "runs" / "train" / "limoe"
    content = json.loads((last / STATE).read_bytes())
    content["state"].pop("pace")
    content["state"].pop("journals")  # lengths in bytes, of rows with times
    rows = [json.loads(line) for line in (root / KEPT / "metrics.jsonl").read_text().splitlines()]
    files = {path.relative_to(out).as_posix(): sha256_file(path) for path in sorted(out.rglob("*")) if path.is_file()}
    return {
        "weights, optimiser and averages": sha256_file(last / TENSORS),
        "state": content,
        "metrics": [{name: value for name, value in row.items() if name != "time"} for row in rows],
        "routing": sha256_file(root / KEPT / "routing.jsonl"),
        "outputs": files,
        "points in MLflow": points(root / "mlflow.db"),
    }


def points(store: Path) -> list[tuple[Any, ...]]:
    """Every point of every training in MLflow's store but those of timing, and the number of runs."""
    if not store.exists():
        return []
    with closing(sqlite3.connect(store)) as database:
        runs = "select run_uuid from runs natural join experiments where experiments.name = 'limoe-train'"
        wanted = f"run_uuid in ({runs}) and key not like 'timing/%'"
        found = database.execute(f"select key, step, value from metrics where {wanted} order by key, step, value")
        return [*found.fetchall(), database.execute(f"select count(*) from ({runs})").fetchone()]


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[list[str]]:
    """A disk of so many bytes in the folder's place; yields the command that makes it large, [] if none can be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode:
        yield []
        return
    try:
        yield ["mount", "-o", "remount,size=1g", str(folder)]
    finally:
        subprocess.run(["umount", folder], check=True)


def measure(trainings: Trainings, in_two: Trainings, kills: int) -> Iterator[Case]:
    """All cases, one after the other."""
    within = round(WITHIN * kills)
    places = [*(PLACES[number % len(PLACES)] for number in range(within)), *[None] * (kills - within)]
    trainings.draw.shuffle(places)
    for number, place in enumerate(places, 1):
        yield trainings.killed(number, place)
    yield trainings.full_disk()
    yield trainings.damaged("a flipped bit")
    yield trainings.damaged("a truncated file")
    yield in_two.rank_killed()


def main(argv: list[str] | None = None) -> int:
    """Run it; the exit code."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.resilience", description=__doc__)
    options.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    options.add_argument("--kills", type=int, default=20, help="(default: %(default)s)")
    options.add_argument("--steps", type=int, default=120, help="of a training, 20 at least (default: %(default)s)")
    options.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    options.add_argument("--tracking", default="mlflow", choices=["mlflow", "none"], help="(default: %(default)s)")
    chosen = options.parse_args(argv)
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        draw = random.Random(chosen.seed)
        trainings = Trainings(Path(folder, "one"), chosen.tracking, chosen.steps, draw)
        in_two = Trainings(Path(folder, "two"), chosen.tracking, chosen.steps, draw, processes=2)
        for case in measure(trainings, in_two, chosen.kills):
            print(case, flush=True)
            cases.append(case)
    good = [not case.differs for case in cases]
    print(f"{sum(good[: chosen.kills])} of {chosen.kills}")
    if chosen.json is not None:
        write_json(chosen.json, {"cases": [asdict(case) for case in cases], "good": all(good)})
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
