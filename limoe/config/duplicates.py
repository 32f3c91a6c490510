"""What `prepare` does with pictures that repeat others."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from limoe.config.section import Section


class DuplicateParams(Section):
    """Which rows are left out because their picture is elsewhere. against: names of `evaluate.sets`."""

    drop: Literal["none", "leaked", "all"]
    radius: int | None = Field(ge=0, le=16)
    against: tuple[str, ...]

    @model_validator(mode="after")
    def _of_use(self) -> Self:
        if self.drop == "none" and (self.against or self.radius is not None):
            raise ValueError("against and radius are of no use with drop: none; drop must be leaked or all")
        return self
