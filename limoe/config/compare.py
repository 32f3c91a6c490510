"""`compare`: statistics, and the contestants that are not trained here."""

from __future__ import annotations

import re
from typing import Self

from pydantic import Field, model_validator

from limoe.config.section import Section
from limoe.config.train import CONTESTANTS

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")  # of a further contestant: a folder, and part of a stage's name


class OtherModel(Section):
    """What a further contestant may say of itself. seed_of: the contestant of which it is another training. samples: pairs seen
    in its training; None where nobody knows, or where a record beside it, or open_clip's tag, says it."""

    seed_of: str | None = None
    samples: float | None = Field(default=None, gt=0)


class LocalModel(OtherModel):
    """A model on this disk. path: a folder (ours, open_clip's or transformers'), or a checkpoint of one `architecture`."""

    path: str
    architecture: str | None = None


class FetchedModel(OtherModel):
    """One of open_clip's pretrained models, by its two names."""

    architecture: str
    tag: str


class CompareParams(Section):
    """Statistics of the comparison, and the contestants that are not trained here."""

    bootstrap: int = Field(ge=1000)  # with fewer, no p could survive Holm's correction over a report's tests
    seed: int = Field(ge=0)
    tuning: dict[str, int]
    models: dict[str, LocalModel]
    fetched: dict[str, FetchedModel]

    @property
    def others(self) -> dict[str, LocalModel | FetchedModel]:
        """Every contestant that is not trained here, in the order of the report."""
        return {**self.models, **self.fetched}

    @model_validator(mode="after")
    def _names(self) -> Self:
        known = [*CONTESTANTS, *self.others]
        for name in self.others:
            if not NAME.fullmatch(name) or name in CONTESTANTS or (name in self.models and name in self.fetched):
                raise ValueError(f"{name!r} is no name for a further contestant: letters, digits, - and _, and no name twice")
        for name, other in self.others.items():
            if other.seed_of is not None and (other.seed_of not in known or other.seed_of == name):
                raise ValueError(f"seed_of of {name} is {other.seed_of!r}, which is no other contestant: {', '.join(known)} are")
            if other.seed_of in self.others and self.others[other.seed_of].seed_of is not None:
                raise ValueError(f"seed_of of {name} is {other.seed_of!r}, itself a seed of another: name the first")
        for name, trials in self.tuning.items():
            if name not in known or trials < 0:
                raise ValueError(f"tuning.{name} = {trials}: allowed are {', '.join(known)} with a number of trials from 0")
        return self
