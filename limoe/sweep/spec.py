"""What a trial is: one training of one contestant with one seed, under parameters that are wholly resolved."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from limoe.config import CONTESTANTS, Contestant
from limoe.errors import UserError
from limoe.files import read_json, write_json
from limoe.paths import fingerprint
from limoe.provenance import code_hash

FILE = "trial.json"
CODE = "limoe.sweep.trial"  # whose imports are the code that a trial's result depends on


@dataclass(frozen=True)
class TrialSpec:
    """values: what was swept, dotted name -> value; they stand in `params`, too. params: the whole document of params.yaml,
    validated, JSON-able. seed: goes before params' own. reports: how often the objective is measured, the last at the end.
    keep_model: whether the model directory `model` is left in the trial's; no result depends on it, nor does the fingerprint.
    start: hash of the model directory that `train.start_from` names, None without one."""

    contestant: Contestant
    values: dict[str, Any]
    seed: int
    params: dict[str, Any]
    reports: int
    keep_model: bool = False
    start: str | None = None

    def __post_init__(self) -> None:
        if self.contestant not in CONTESTANTS:
            raise ValueError(f"contestant {self.contestant!r}: allowed are {', '.join(CONTESTANTS)}")
        if self.reports < 1:
            raise ValueError(f"reports ({self.reports}) must be at least 1")

    @property
    def steps(self) -> int:
        """Optimiser steps that are planned."""
        return int(self.params["train"]["steps"])

    @property
    def train(self) -> dict[str, Any]:
        """The section `train` as this contestant trains."""
        return {**self.params["train"], **self.params.get("contestants", {}).get(self.contestant, {})}

    @property
    def threads(self) -> int:
        """Threads that the training computes with."""
        return int(self.params["train"]["threads"])

    def fingerprint(self, data_hash: str) -> str:
        """Sixteen hex digits: the name of the trial's directory. It covers all that the result depends on: the parameters that
        the contestant reads, seed, reports, data, code and what it starts from (not where that lies); not the machine's, nor
        other stages'. Equal trainings, equal names."""
        changes = self.params["contestants"].get(self.contestant, {})
        params = {
            "model": self.params["model"],
            "train": {**self.params["train"], "seed": self.seed, "start_from": self.start},
            "changes": {name: value for name, value in changes.items() if name != "start_from"},
        }
        return fingerprint(contestant=self.contestant, params=params, reports=self.reports, data=data_hash, code=code_hash(CODE))


def create(folder: Path, spec: TrialSpec) -> None:
    """Make the trial's directory, with its spec (trial.json) whole or not at all; again with the same spec changes nothing."""
    write_json(folder / FILE, asdict(spec))


def read_spec(folder: Path) -> TrialSpec:
    """The spec of the trial in `folder`; UserError if there is none or it is broken."""
    path = folder / FILE
    values = read_json(path)
    try:
        return TrialSpec(**values)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: not the spec of a trial ({error})") from None
