"""Further seeds of the pipeline's trainings as a Prefect flow: what `compare` needs to tell a difference from luck.

`python -m flows.seeds` runs it in the project's folder. The directory runs/sweeps/NAME is the truth: the same command goes on
with it, and may ask for more seeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

import typer
from prefect import flow

from flows.progress import PlannedProgress
from flows.request import Address, Concurrency, ParamsFile, Runner, plainly
from flows.temporary import find_server
from flows.trials import check_runner, run_all, task_runner
from limoe.config import Params
from limoe.files import exclusive_lock
from limoe.paths import Paths
from limoe.sweep.data import prepared_for
from limoe.sweep.outcome import Outcome
from limoe.sweep.record import EXPERIMENT, open_recorder
from limoe.sweep.seeds import Seeds, SeedsSettings
from limoe.sweep.work import Work


@dataclass(frozen=True)
class Request:
    """What is asked for, as the flow's parameters have it. contestants: separated by commas."""

    name: str = "seeds"
    seeds: int = 3
    contestants: str = "limoe,dense,clip"
    concurrency: int = 1
    runner: str = "local"
    address: str | None = None
    params: str = "params.yaml"

    def open(self) -> tuple[Seeds, Params, Paths]:
        """The trainings as their directory has them; UserError for whatever is wrong."""
        file = Path(self.params).resolve()
        params, paths = Params.load(file), Paths(file.parent)
        check_runner(self.runner, self.address, self.concurrency, params.train.threads)
        asked = tuple(part.strip() for part in self.contestants.split(",") if part.strip())
        data = prepared_for(params, paths.prepared)
        return Seeds(SeedsSettings(self.name, asked, self.seeds), params, paths, data.hash), params, paths


@flow(name="limoe-seeds", flow_run_name="{name}", log_prints=True)
def train_seeds(
    name: str = "seeds",
    seeds: int = 3,
    contestants: str = "limoe,dense,clip",
    concurrency: int = 1,
    runner: str = "local",
    address: str | None = None,
    params: str = "params.yaml",
) -> None:
    """Train the contestants with further seeds, or go on with that; then say how to compare them."""
    run_seeds(Request(name, seeds, contestants, concurrency, runner, address, params))


def run_seeds(request: Request) -> None:
    """Work off the trainings within a flow, and tell of them here and in MLflow."""
    paths = Paths(Path(request.params).resolve().parent)
    described = {"seeds": {"contestants": request.contestants, "seeds": request.seeds}}
    with exclusive_lock(paths.work(f"sweep-{request.name}.lock"), f"the seeds {request.name}"):
        study, params, _ = request.open()
        print(f"seeds {request.name}: {study.planned} trainings beside the pipeline's own")
        with open_recorder(params.machine, paths.root, study.folder, described) as recorder:
            recorder.catch_up()
            progress = PlannedProgress(study)

            def ended(work: Work, outcome: Outcome) -> None:
                recorder.attempt(work.folder)
                print(progress.line(work, outcome))

            runner = task_runner(request.runner, request.address, request.concurrency)
            run_all(study, runner, request.concurrency, paths.prepared, params.train.threads, ended)
            overlay = study.write_overlay().relative_to(paths.root)
    for name, losses in study.losses().items():
        print(f"{name}: {_spread(losses)}")
    for training in study.left_out():
        print(f"not compared: {training}")
    print(f"MLflow: experiment {EXPERIMENT}, run {request.name}; next: limoe params --overlay {overlay}, then dvc repro")


def _spread(losses: list[float]) -> str:
    """
    >>> _spread([2.0, 4.0])
    'validation loss 3.000 (standard deviation 1.414, 2 trainings)'
    >>> _spread([])
    'no training ended well'
    """
    if not losses:
        return "no training ended well"
    count = f"{len(losses)} training{'s' if len(losses) > 1 else ''}"
    deviation = f"standard deviation {stdev(losses):.3f}, " if len(losses) > 1 else ""
    return f"validation loss {fmean(losses):.3f} ({deviation}{count})"


def main(
    name: str = typer.Option("seeds", help="Its directory in runs/sweeps. The same name goes on with it."),
    seeds: int = typer.Option(3, help="Trainings of each contestant, the pipeline's own among them; may be raised later."),
    contestants: str = typer.Option("limoe,dense,clip", help="Which, separated by commas."),
    concurrency: Concurrency = 1,
    runner: Runner = "local",
    address: Address = None,
    params: ParamsFile = "params.yaml",
) -> None:
    """Train the contestants with further seeds, or go on with that."""
    request = Request(**locals())
    with plainly():
        request.open()
        find_server()
        train_seeds(**vars(request))


if __name__ == "__main__":
    typer.run(main)
