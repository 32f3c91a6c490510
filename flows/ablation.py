"""The paper's study as a Prefect flow: one change of the full recipe at a time, with seeds, in a named budget.

`python -m flows.ablation` runs it in the project's folder. What is changed, and what is made of it, stands in limoe.sweep
(variants, ablation, ablation_result). The directory runs/sweeps/NAME is the truth: the same command goes on with it, and may ask
for more seeds or other variants.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import typer
from prefect import flow
from prefect.artifacts import create_image_artifact, create_markdown_artifact

from flows.pipeline import artifact_key
from flows.progress import PlannedProgress
from flows.request import Address, Concurrency, ParamsFile, Runner, plainly, with_budget
from flows.temporary import find_server
from flows.trials import check_runner, run_all, task_runner
from limoe.config import Params
from limoe.data.prepared import Prepared
from limoe.files import exclusive_lock
from limoe.paths import Paths
from limoe.report.ablation import headline
from limoe.sweep.ablation import Ablation, AblationSettings
from limoe.sweep.data import prepared_for
from limoe.sweep.outcome import Outcome
from limoe.sweep.pages import CSV, MARKDOWN, PAGE, PLOTS, report_ablation
from limoe.sweep.record import EXPERIMENT, open_recorder
from limoe.sweep.work import Work


@dataclass(frozen=True)
class Request:
    """What is asked for, as the flow's parameters have it. only: groups or variants, separated by commas; all without."""

    name: str = "ablation"
    budget: str | None = None
    only: str = ""
    seeds: int = 3
    reports: int = 1
    concurrency: int = 1
    runner: str = "local"
    address: str | None = None
    params: str = "params.yaml"

    def resolve(self) -> tuple[Params, Paths, Prepared]:
        """The parameters with the budget merged in, where files lie, and the data; UserError for whatever is wrong."""
        file = Path(self.params).resolve()
        params, paths = with_budget(file, self.budget), Paths(file.parent)
        check_runner(self.runner, self.address, self.concurrency, params.train.threads)
        return params, paths, prepared_for(params, paths.prepared)

    def open(self) -> Ablation:
        """The ablation as its directory has it; UserError if that was begun under other settings."""
        params, paths, prepared = self.resolve()
        only = tuple(part.strip() for part in self.only.split(",") if part.strip())
        settings = AblationSettings(self.name, only, self.seeds, self.reports)
        return Ablation(settings, params, paths, prepared.hash)


@flow(name="limoe-ablation", flow_run_name="{name}", log_prints=True)
def ablation(
    name: str = "ablation",
    budget: str | None = None,
    only: str = "",
    seeds: int = 3,
    reports: int = 1,
    concurrency: int = 1,
    runner: str = "local",
    address: str | None = None,
    params: str = "params.yaml",
) -> None:
    """Train every variant of the full recipe with every seed, or go on with that; then write table, figure and page."""
    run_ablation(Request(name, budget, only, seeds, reports, concurrency, runner, address, params))


def run_ablation(request: Request) -> None:
    """Work off the ablation within a flow, and tell of it here, in MLflow and as artifacts."""
    params, paths, _ = request.resolve()
    described = {"ablation": {"only": request.only or "all", "seeds": request.seeds}, "budget": request.budget or ""}
    with exclusive_lock(paths.work(f"sweep-{request.name}.lock"), f"the ablation {request.name}"):
        study = request.open()
        print(f"ablation {request.name}: {len(study.study.variants)} variants, {request.seeds} seeds, {study.planned} trials")
        for key, why in study.study.omitted.items():
            print(f"not run: {key} ({why})")
        with open_recorder(params.machine, paths.root, study.folder, described) as recorder:
            recorder.catch_up()
            progress = PlannedProgress(study)

            def ended(work: Work, outcome: Outcome) -> None:
                recorder.attempt(work.folder)
                print(progress.line(work, outcome))

            runner = task_runner(request.runner, request.address, request.concurrency)
            run_all(study, runner, request.concurrency, paths.prepared, params.train.threads, ended)
            found, _ = report_ablation(study.folder, study.told)
        publish(study.folder)
    print(headline(found.to_dict()))
    print(f"MLflow: experiment {EXPERIMENT}, run {request.name}; table: {study.folder / CSV}; next: open {study.folder / PAGE}")


def publish(folder: Path) -> None:
    """The report and its figure as artifacts of this run."""
    key = artifact_key(Path(f"ablation-{folder.name}"))
    create_markdown_artifact((folder / MARKDOWN).read_text(encoding="utf-8"), key=key, description=str(folder / PAGE))
    for picture in sorted((folder / PLOTS).glob("*.png")):
        encoded = base64.b64encode(picture.read_bytes()).decode()
        create_image_artifact(f"data:image/png;base64,{encoded}", key=f"{key}-{picture.stem}", description=picture.name)


def main(
    name: str = typer.Option("ablation", help="Its directory in runs/sweeps. The same name goes on with it."),
    budget: str | None = typer.Option(None, help="Merge overlays/BUDGET.yaml into the parameters first."),
    only: str = typer.Option("", help="Groups or variants, such as aux,priority/first-come; all of them otherwise."),
    seeds: int = typer.Option(3, help="Trainings of each variant; may be raised later."),
    reports: int = typer.Option(1, help="How often a trial measures its loss, the last at its end."),
    concurrency: Concurrency = 1,
    runner: Runner = "local",
    address: Address = None,
    params: ParamsFile = "params.yaml",
) -> None:
    """Take the full recipe apart, or go on with that."""
    request = Request(**locals())
    with plainly():
        request.open()
        find_server()
        ablation(**vars(request))


if __name__ == "__main__":
    typer.run(main)
