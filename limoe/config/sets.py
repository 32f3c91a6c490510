"""`prepare.sets`: pictures and captions of the user's own, in whatever layout they come."""

from __future__ import annotations

import re
from typing import Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from limoe.config.evaluate import named_once
from limoe.config.section import Section

Kind = Literal["auto", "webdataset", "parquet", "table", "sidecar", "coco", "flickr", "imagefolder", "huggingface"]
KINDS: tuple[Kind, ...] = get_args(Kind)
IN_TARS = ("webdataset",)
IN_COLUMNS = ("parquet", "table", "huggingface")
BY_NAME = (*IN_COLUMNS, "coco", "flickr")  # those that may name pictures which lie elsewhere
PACKAGED = ("emoji", "scenes")  # sources that no set may be called like


class ColumnParams(Section):
    """Which columns (or keys) hold what; null: found by their usual names; false: none is used, whatever its name."""

    image: str | None = None
    caption: str | tuple[str, ...] | None = None
    label: str | Literal[False] | None = None
    split: str | Literal[False] | None = None
    group: str | Literal[False] | None = None


class SetParams(Section):
    """A set of pictures (docs/data.md). Paths are relative to the project."""

    path: str = Field(min_length=1)
    kind: Kind = "auto"
    images: str | None = None
    columns: ColumnParams = ColumnParams()
    split: Literal["train", "val", "test"] | None = None
    val_fraction: float = Field(default=0.1, ge=0, lt=1)
    test_fraction: float = Field(default=0.1, ge=0, lt=1)
    classes: str | None = None
    templates: tuple[str, ...] = Field(default=("a photo of a {}",), min_length=1)
    in_place: bool = False

    @field_validator("templates")
    @classmethod
    def _name_the_class(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        return named_once(templates)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError("val_fraction + test_fraction must stay below 1, or nothing is left to train on")
        for key, kinds in {"images": BY_NAME, "columns": IN_COLUMNS, "in_place": IN_TARS}.items():
            if getattr(self, key) != type(self).model_fields[key].default and self.kind not in ("auto", *kinds):
                raise ValueError(f"{key} is of no use to the kind {self.kind}, but to {', '.join(kinds)}")
        return self


def check_names(sets: dict[str, SetParams]) -> dict[str, SetParams]:
    """The sets; ValueError if one has a name that keys cannot begin with, or that of a packaged source."""
    for name in sets:
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
            raise ValueError(f"the name {name!r} must be of small letters, digits, and . _ - between them")
        if name in PACKAGED:
            raise ValueError(f"the name {name!r} is taken by a source that comes with the package")
    return sets
