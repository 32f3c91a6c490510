"""All of params.yaml: load, override, and what must fit together across sections."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError, model_validator

from limoe.config.compare import CompareParams
from limoe.config.evaluate import EvaluateParams
from limoe.config.machine import MachineParams
from limoe.config.model import ModelParams
from limoe.config.prepare import BalanceParams, PrepareParams
from limoe.config.section import Section
from limoe.config.sets import PACKAGED
from limoe.config.train import CONTESTANTS, SHARED, Contestant, TrainParams
from limoe.errors import UserError, did_you_mean
from limoe.paramsfile import explain, read_yaml, set_dotted


class Params(Section):
    """All of params.yaml."""

    prepare: PrepareParams
    balance: BalanceParams
    model: ModelParams
    train: TrainParams
    contestants: dict[Contestant, dict[str, Any]]
    evaluate: EvaluateParams
    compare: CompareParams
    sweep: dict[str, Any]
    machine: MachineParams

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if missing := [name for name in CONTESTANTS if name not in self.contestants]:
            raise ValueError(
                f"contestants.{missing[0]} is missing; all of {', '.join(CONTESTANTS)} must be there, {{}} for no change"
            )
        wanted = [name for name, share in self.train.mixture.items() if share > 0]
        if unknown := [name for name in wanted if name not in self.prepare.sources]:
            raise ValueError(
                f"train.mixture.{unknown[0]}: not among prepare.sources, which are {', '.join(self.prepare.sources)}; a share of "
                "0 leaves it out"
            )
        if unknown := [name for name in self.prepare.duplicates.against if name not in self.evaluate.sets]:
            raise ValueError(
                f"prepare.duplicates.against: {unknown[0]!r} is none of evaluate.sets, which are "
                f"{', '.join(self.evaluate.sets) or 'none'}"
            )
        sources = list(dict.fromkeys([*PACKAGED, *self.prepare.sources, *self.prepare.sets]))
        if unknown := [name for name in self.train.select_without if name not in sources]:
            hint = did_you_mean(unknown[0], sources) or f"; there are {', '.join(sources)}"
            raise ValueError(f"train.select_without: no source {unknown[0]!r}{hint}")
        experts, owners = self.model.moe.experts, self.machine.expert_parallel
        if experts % owners:
            raise ValueError(f"machine.expert_parallel ({owners}) must divide model.moe.experts ({experts})")
        batch, group = self.train.batch, self.model.moe.group_pairs
        if batch % group:
            raise ValueError(f"train.batch ({batch}) must be a multiple of model.moe.group_pairs ({group})")
        for name in self.contestants:
            self.machine.check(self.train_for(name))
            micro = self.train_for(name).micro_batch
            if isinstance(micro, int) and (batch % micro or micro % group):
                where = f"contestants.{name}" if "micro_batch" in self.contestants[name] else "train"
                raise ValueError(
                    f"{where}.micro_batch ({micro}) must divide train.batch ({batch}) and be a multiple of "
                    f"model.moe.group_pairs ({group})"
                )
        return self

    @property
    def everyone(self) -> tuple[str, ...]:
        """The names of all contestants: the trained ones, then the further ones."""
        return (*CONTESTANTS, *self.compare.others)

    @classmethod
    def load(cls, path: Path, overrides: tuple[str, ...] = ()) -> Params:
        """Read `path` and apply `overrides` ("train.lr=1e-3"); UserError names key, value and what is allowed."""
        values = read_yaml(path)
        for override in overrides:
            set_dotted(values, override)
        return cls.parse(values, str(path))

    @classmethod
    def parse(cls, values: dict[str, Any], origin: str) -> Params:
        """Validate a mapping; `origin` is the name that errors give it."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise UserError(f"{origin}: {explain(error, Params)}") from None
        except UserError as error:
            raise UserError(f"{origin}: {error}") from None

    def train_for(self, contestant: Contestant) -> TrainParams:
        """The training recipe with this contestant's changes; UserError if they do not fit."""
        changes = self.contestants.get(contestant, {})
        if shared := [key for key in changes if key in SHARED]:
            raise UserError(
                f"contestants.{contestant}.{shared[0]}: contestants see the same data in the same order, under the same loss, so "
                f"that the models alone differ; change train.{shared[0]} for all of them (a contestant's own may be, say, lr or "
                "weight_decay)"
            )
        try:
            return TrainParams.model_validate(_changed(self.train.model_dump(), changes))
        except ValidationError as error:
            raise UserError(f"contestants.{contestant}: {explain(error, TrainParams)}") from None


def _changed(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`values` with `changes`; of a section that is changed in part, the rest stays."""
    return values | {
        key: _changed(values[key], change) if isinstance(change, dict) and isinstance(values.get(key), dict) else change
        for key, change in changes.items()
    }
