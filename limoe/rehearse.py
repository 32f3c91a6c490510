"""`limoe rehearse`: what the first steps of a training will drop, by training them with other seeds.

An untrained model tells what step 1 drops (limoe.train.untrained). Routing then moves at once, while the learning rate is still
warming up: after twenty steps a modality may drop half of that. How fast depends on the whole recipe, so the steps themselves are
run, and nothing of them is kept.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, TextIO

from limoe.config import PRIORITIES, Params, Priority
from limoe.data.prepared import TOKENIZER, Prepared
from limoe.data.suggestion import AUTO, with_suggestion, with_values
from limoe.errors import UserError
from limoe.model.tokens import MODALITIES
from limoe.paths import Paths
from limoe.stages.balance import bar
from limoe.stages.train import open_trainer
from limoe.train.contestants import model_config
from limoe.train.start import Start
from limoe.train.untrained import OTHER_SEEDS, RULED, Spread

SHOWN = (1, 5, 10, 20, 50, 100)  # steps of which the table tells


@dataclass(frozen=True)
class Rehearsal:
    """rule: of priority, or the name of a router that has its own. dropped_SNM: for each seed and step the share of (text, image)
    choices without a place, the mean over the sparse blocks: with K = 1, of tokens."""

    rule: str
    dropped_SNM: tuple[tuple[tuple[float, float], ...], ...]

    def at(self, step: int, modality: int) -> Spread:
        """What step `step`, counted from 1, drops."""
        return Spread.of([steps[step - 1][modality] for steps in self.dropped_SNM])

    def over(self, modality: int) -> Spread:
        """What all the steps drop, in the mean."""
        return Spread.of([fmean(step[modality] for step in steps) for steps in self.dropped_SNM])


def rules(params: Params, every: bool) -> tuple[Priority, ...]:
    """The priority rules to rehearse; UserError if every one is asked for and the router has its own."""
    moe = params.model.moe
    if every and moe.router not in (AUTO, *RULED):
        raise UserError(f"model.moe.router = {moe.router} has no priority rule that could be chosen")
    return PRIORITIES if every else (moe.priority,)


def rehearse(params: Params, paths: Paths, rules: Sequence[Priority], seeds: int, steps: int) -> list[Rehearsal]:
    """The first `steps` steps of the contestant limoe under each of `rules`, `seeds` times, with a progress bar.

    UserError where a training of these params would raise one.
    """
    params = with_suggestion(params, paths)
    if steps > params.train.steps:
        raise UserError(f"a training of train.steps = {params.train.steps} has no {steps} steps to rehearse")
    runs = [(rule, OTHER_SEEDS + seed) for rule in rules for seed in range(seeds)]
    found = [
        first_steps(with_values(params, {"priority": runs[run][0]}), paths, runs[run][1], steps)
        for run in bar(range(len(runs)), "first steps")
    ]
    router = params.model.moe.router
    names = [rule if router in RULED else router for rule in rules]
    return [Rehearsal(name, tuple(found[place * seeds : (place + 1) * seeds])) for place, name in enumerate(names)]


def first_steps(params: Params, paths: Paths, seed: int, steps: int) -> tuple[tuple[float, float], ...]:
    """What each of the first `steps` steps of a training with this seed drops of (text, image)."""
    prepared, train = Prepared(paths.prepared), params.train_for("limoe")
    changes: dict[str, Any] = {"seed": seed, "log_every": 1, "export": "last", "compile": False}
    train = train.model_copy(update=changes | {"health": train.health.model_copy(update={"action": "warn"})})
    alone = {"processes": 1, "expert_parallel": 1, "shard_weights": False}
    params = params.model_copy(update={"machine": params.machine.model_copy(update=alone)})
    config = model_config(params, "limoe", prepared, lengths=[])
    start = None if train.start_from is None else Start.of(paths.root / train.start_from, config, prepared.root / TOKENIZER)
    rows: list[dict[str, Any]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        open_trainer(params, config, start, train, prepared, Path(folder), rows.append, lambda _: None) as trainer,
    ):
        trainer.run(until=steps)
    return tuple(_dropped(row) for row in rows)


def _dropped(row: dict[str, Any]) -> tuple[float, float]:
    """(text, image), from a row of the log; UserError if the step was skipped, which counts no places."""
    if not any(name.endswith("_placed") for name in row):
        raise UserError(
            f"step {row['step']} of the rehearsal was skipped, as its loss or gradient is not finite: lower train.lr, or raise "
            "train.warmup"
        )
    text, image = (
        1 - fmean(value for name, value in row.items() if name.startswith("block") and name.endswith(f"/{modality}_placed"))
        for modality in MODALITIES
    )
    return text, image


def show(found: Sequence[Rehearsal], steps: int, to: TextIO | None = None) -> None:
    """A line a rule and modality: what single steps drop, and all of them in the mean."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    shown = [step for step in SHOWN if step <= steps]
    table = Table("dropped", *(f"step {step}" for step in shown), f"steps 1 to {steps}", box=SIMPLE)
    for column in table.columns[1:]:
        column.justify = "right"
    for rehearsal in found:
        for modality, name in enumerate(MODALITIES):
            cells = [*(rehearsal.at(step, modality) for step in shown), rehearsal.over(modality)]
            table.add_row(f"{name}, {rehearsal.rule}", *(f"{one.mean:.1%} ± {100 * one.deviation:.1f}" for one in cells))
    Console(file=to).print(table)
