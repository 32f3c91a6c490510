"""What a sweep is asked to do, read and checked before anything runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from flows.trials import check_runner
from limoe.config import CONTESTANTS, Params
from limoe.errors import UserError, did_you_mean
from limoe.files import exclusive_lock
from limoe.overlay import load_document, merge
from limoe.paramsfile import read_yaml
from limoe.paths import Paths
from limoe.sweep.data import prepared_for
from limoe.sweep.names import readable
from limoe.sweep.space import Space
from limoe.sweep.study import Sweep
from limoe.sweep.work import SweepSettings

# Options that the flows of trials share.
Concurrency = Annotated[int, typer.Option(help="Trials at a time; times train.threads no more than this machine's cores.")]
Runner = Annotated[str, typer.Option(help="local (processes here) or dask.")]
Address = Annotated[str | None, typer.Option(help="Of a Dask scheduler; without one, workers are started here.")]
ParamsFile = Annotated[str, typer.Option(help="The parameters; the other files lie beside it.")]


@dataclass(frozen=True)
class Plan:
    """A sweep that may run. params: with the budget's overlay merged in."""

    settings: SweepSettings
    space: Space
    params: Params
    paths: Paths
    data_hash: str

    def open(self) -> Sweep:
        """The sweep as its directory has it; UserError if that was begun under other settings."""
        return Sweep(self.settings, self.space, self.params, self.paths, self.data_hash)

    def lock(self) -> AbstractContextManager[None]:
        """Keeps a second process out of this sweep."""
        return exclusive_lock(self.paths.work(f"sweep-{self.settings.name}.lock"), f"the sweep {self.settings.name}")


@dataclass(frozen=True)
class Request:
    """What is asked for, as the flow's parameters have it: see docs/sweeps.md."""

    name: str
    contestant: str = "limoe"
    space: str | None = None
    sampler: str = "tpe"
    pruner: str = "none"
    trials: int = 60
    seeds: int = 3
    reports: int = 5
    objectives: str = "loss"
    budget: str | None = None
    concurrency: int = 1
    runner: str = "local"
    address: str | None = None
    storage: str | None = None
    seed: int = 0
    params: str = "params.yaml"

    def plan(self) -> Plan:
        """The sweep, checked; UserError for whatever is wrong with it."""
        if self.contestant not in CONTESTANTS:
            raise UserError(f"contestant = {self.contestant!r} is not allowed: {', '.join(CONTESTANTS)} are")
        settings = SweepSettings(
            name=self.name,
            contestant=self.contestant,
            sampler=self.sampler,
            pruner=self.pruner,
            trials=self.trials,
            seeds=self.seeds,
            reports=self.reports,
            objectives=tuple(part.strip() for part in self.objectives.split(",")),
            storage=self.storage,
            seed=self.seed,
        )
        plan = make_plan(settings, self.space, self.budget, Path(self.params).resolve())
        check_runner(self.runner, self.address, self.concurrency, plan.params.train.threads)
        return plan


def make_plan(settings: SweepSettings, space: str | None, budget: str | None, file: Path) -> Plan:
    """The sweep over the space in a file, or over what of the parameters' own section `sweep` the contestant reads.

    UserError for whatever is wrong with it.
    """
    params = with_budget(file, budget)
    if space is None:
        document, origin = readable(params.sweep, params, settings.contestant), f"{file.name}, sweep"
    else:
        document, origin = read_yaml(file.parent / space), space
    searched = Space.parse(document, params, settings.contestant, origin)
    paths = Paths(file.parent)
    return Plan(settings, searched, params, paths, prepared_for(params, paths.prepared).hash)


def with_budget(file: Path, budget: str | None) -> Params:
    """The parameters in `file`, overlays/BUDGET.yaml beside it merged in (for `a,b` first a, then b).

    UserError with the nearest name if there is none.
    """
    document = load_document(file)
    overlays = {path.stem: path for path in sorted((file.parent / "overlays").glob("*.yaml"))}
    chosen = [] if budget is None else [name.strip() for name in budget.split(",")]
    for name in chosen:
        if name not in overlays:
            guess = did_you_mean(name, overlays, cutoff=0.4) or f"; there are: {', '.join(overlays) or 'none'}"
            raise UserError(f"budget {name!r}: no file overlays/{name}.yaml{guess}")
        merge(document, read_yaml(overlays[name]))
    return Params.parse(document, " with ".join([file.name, *(overlays[name].name for name in chosen)]))


@contextmanager
def plainly() -> Iterator[None]:
    """What a command does with a user's mistake and with an interruption: a sentence, and exit code 2 or 130."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted: every trial that ended is kept; run it again, and it goes on", file=sys.stderr)
        raise SystemExit(130) from None
