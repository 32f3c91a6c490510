"""A sweep as a Prefect flow: a search over settings of the training, killed and continued at will.

`python -m flows.sweep NAME` runs it in the project's folder: on the server that PREFECT_API_URL names, else on a temporary one.
What is searched, drawn and repeated is decided in limoe.sweep. The directory runs/sweeps/NAME is the truth, and the same command
goes on with it.
"""

from __future__ import annotations

import os
from pathlib import Path

import typer
from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run
from prefect.settings import get_current_settings
from prefect.utilities.urls import url_for

from flows.pipeline import artifact_key
from flows.progress import Progress, conclusion
from flows.request import Address, Concurrency, ParamsFile, Plan, Request, Runner, plainly
from flows.temporary import find_server
from flows.trials import run_all, task_runner
from limoe.sweep import table
from limoe.sweep.outcome import Outcome
from limoe.sweep.pages import MARKDOWN, report_sweep
from limoe.sweep.record import EXPERIMENT, open_recorder
from limoe.sweep.work import Work


@flow(name="limoe-sweep", flow_run_name="{name}", log_prints=True)
def sweep(
    name: str,
    contestant: str = "limoe",
    space: str | None = None,
    sampler: str = "tpe",
    pruner: str = "none",
    trials: int = 60,
    seeds: int = 3,
    reports: int = 5,
    objectives: str = "loss",
    budget: str | None = None,
    concurrency: int = 1,
    runner: str = "local",
    address: str | None = None,
    storage: str | None = None,
    seed: int = 0,
    params: str = "params.yaml",
) -> None:
    """Run the sweep, or go on with it: so many points, promising ones on several seeds, then the two best on five fresh ones."""
    request = Request(
        name,
        contestant,
        space,
        sampler,
        pruner,
        trials,
        seeds,
        reports,
        objectives,
        budget,
        concurrency,
        runner,
        address,
        storage,
        seed,
        params,
    )
    run_sweep(request.plan(), request)


def run_sweep(plan: Plan, request: Request) -> None:
    """Work off the plan within a flow, and tell of it here, in MLflow and as an artifact."""
    settings, threads = plan.settings, plan.params.train.threads
    described = {"sweep": vars(settings) | {"storage": ""}, "budget": request.budget or "", "space": ", ".join(plan.space.names)}
    with plan.lock():
        study = plan.open()
        say_where(plan, study.planned, request.concurrency)
        with open_recorder(plan.params.machine, plan.paths.root, study.folder, described) as recorder:
            recorder.catch_up()
            progress = Progress(study.planned, table.collect(study.folder).to_pylist())

            def ended(work: Work, outcome: Outcome) -> None:
                print(progress.line(work, outcome))
                recorder.attempt(work.folder)

            runner = task_runner(request.runner, request.address, request.concurrency)
            run_all(study, runner, request.concurrency, plan.paths.prepared, threads, ended)
            report_sweep(study.folder)
        told = conclusion(study.published, settings.name, study.refused)
        report = (study.folder / MARKDOWN).read_text(encoding="utf-8")
        create_markdown_artifact(f"{told}\n\n{report}", key=artifact_key(Path("sweep", settings.name)), description="the report")
        print(told)


def say_where(plan: Plan, points: int, concurrency: int) -> None:
    """What begins, and where to watch it."""
    settings = plan.settings
    what = f"{points} points of {settings.contestant} over {', '.join(plan.space.names)}"
    print(f"sweep {settings.name}: {what}; {settings.sampler}, pruner {settings.pruner}, {concurrency} at a time")
    print(f"objective: {objective(plan)}")
    print(f"MLflow: {mlflow_place(plan)}")
    page = url_for("flow-run", flow_run.id) if get_current_settings().api.url else None
    print(f"Prefect: {page or 'a temporary server without a page; `make prefect` starts one'}")


def objective(plan: Plan) -> str:
    """What the sweep minimises, and which validation sets have no say in it."""
    train = plan.params.train
    without = [
        f"{split} of {source}"
        for source, splits in train.select_without.items()
        if train.mixture.get(source, 0)
        for split in splits
    ]
    said = f", without {', '.join(without)} (train.select_without)" if without else ""
    return f"the contrastive loss on the validation sets{said}"


def mlflow_place(plan: Plan) -> str:
    """Where MLflow shows the sweep."""
    if plan.params.machine.tracking == "none":
        return "nothing is recorded (machine.tracking is none)"
    elsewhere = os.environ.get("MLFLOW_TRACKING_URI")
    return f"{elsewhere or '`make ui`, http://127.0.0.1:5000'}, experiment {EXPERIMENT}, run {plan.settings.name}"


def main(
    name: str = typer.Argument(help="Of the sweep: its directory in runs/sweeps. The same name goes on with it."),
    contestant: str = typer.Option("limoe", help="limoe, dense or clip."),
    space: str | None = typer.Option(None, help="YAML file with the space; the section sweep of the parameters otherwise."),
    sampler: str = typer.Option("tpe", help="tpe, random, sobol, grid or cmaes."),
    pruner: str = typer.Option("none", help="none, successive-halving, hyperband or median."),
    trials: int = typer.Option(60, help="Points to try; may be raised later."),
    seeds: int = typer.Option(3, help="Seeds a promising point is repeated on, at most."),
    reports: int = typer.Option(5, help="How often a trial measures the objective, the last at its end."),
    objectives: str = typer.Option("loss", help="loss, or loss,seconds for quality against cost."),
    budget: str | None = typer.Option(None, help="Merge overlays/BUDGET.yaml into the parameters first."),
    concurrency: Concurrency = 1,
    runner: Runner = "local",
    address: Address = None,
    storage: str | None = typer.Option(None, help="Optuna's storage by URL; a journal in the sweep's directory otherwise."),
    seed: int = typer.Option(0, help="Of the sampler."),
    params: ParamsFile = "params.yaml",
) -> None:
    """Search the settings of the training, or go on with a search."""
    request = Request(**locals())
    with plainly():
        plan = request.plan()
        with plan.lock():
            plan.open()
        find_server()
        sweep(**vars(request))


if __name__ == "__main__":
    typer.run(main)
