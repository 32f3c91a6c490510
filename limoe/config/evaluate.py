"""`evaluate`: how models are scored, and the test sets of the user's own."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from limoe.config.section import Section

CLASSIFIED = ("imagenet", "folder", "parquet", "webdataset")  # kinds of test sets that may have classes
CAPTIONED = ("coco", "flickr8k", "flickr30k")  # those with several captions a picture


class TrainPictures(Section):
    """Labelled pictures that the probes of a test set learn from. kind: by default that of the test set."""

    path: str
    kind: Literal["imagenet", "folder", "parquet", "webdataset"] | None = None
    split: str | None = None
    labels: str | None = None


class EvalSetParams(Section):
    """A test set of the user's own (docs/evaluation.md). Paths are relative to the project."""

    path: str
    kind: Literal["imagenet", "folder", "parquet", "webdataset", "coco", "flickr8k", "flickr30k"]
    split: str | None = None
    labels: str | None = None
    captions: str | None = None
    classes: str | None = None
    templates: str | None = None
    subset: Literal["imagenet", "imagenet-a", "imagenet-r"] | None = None
    train: TrainPictures | None = None

    @model_validator(mode="after")
    def _used(self) -> Self:
        readers = {"labels": ("imagenet",), "subset": ("imagenet",), "captions": CAPTIONED}
        readers |= dict.fromkeys(("classes", "templates", "train"), CLASSIFIED)
        for key, kinds in readers.items():
            if getattr(self, key) is not None and self.kind not in kinds:
                raise ValueError(f"{key} is of no use to the kind {self.kind}, but to {', '.join(kinds)}")
        if self.train and self.train.labels and (self.train.kind or self.kind) != "imagenet":
            raise ValueError("train.labels is of use to the kind imagenet alone")
        return self


class ProbeParams(Section):
    """Linear probes of pictures, where labelled training pictures are known (limoe/evals/probe.py)."""

    shots: tuple[Annotated[int, Field(ge=1)], ...]
    draws: int = Field(ge=1)
    l2: float = Field(gt=0)
    full_l2: tuple[Annotated[float, Field(gt=0)], ...]
    held_out: float = Field(gt=0, lt=1)

    @field_validator("shots", "full_l2")
    @classmethod
    def _once(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(values)) < len(values):
            raise ValueError("must not name a value twice")
        return values


class EvaluateParams(Section):
    """How models are scored."""

    batch: int = Field(ge=1)
    chunk: int = Field(ge=1)
    templates: tuple[str, ...] = Field(min_length=1)
    calibration_bins: int = Field(ge=2)
    routing_pairs: int = Field(ge=0)
    probe: ProbeParams
    sets: dict[str, EvalSetParams]

    @field_validator("templates")
    @classmethod
    def _name_the_class(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        return named_once(templates)

    @field_validator("sets")
    @classmethod
    def _named(cls, sets: dict[str, EvalSetParams]) -> dict[str, EvalSetParams]:
        for name in sets:
            if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
                raise ValueError(f"the name {name!r} must be of small letters, digits, and . _ - between them")
        return sets


def named_once(templates: tuple[str, ...]) -> tuple[str, ...]:
    """The templates; ValueError if one does not hold {} once."""
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(f"the template {template!r} must hold {{}} once, where the class name goes")
    return templates
