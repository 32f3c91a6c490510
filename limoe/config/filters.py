"""What `prepare` does to pictures and captions, and which of them it leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from limoe.config.compare import FetchedModel, LocalModel
from limoe.config.section import Section


class PictureParams(Section):
    """How pictures are stored."""

    shortest_side: int | None = Field(ge=16)
    encode: Literal["keep", "jpeg", "webp", "png"]
    quality: int = Field(ge=1, le=100)


class CaptionParams(Section):
    """Which captions stay."""

    min_chars: int = Field(ge=1)
    max_chars: int | None = Field(ge=1)
    languages: tuple[str, ...]
    language_share: float = Field(gt=0, le=1)

    @model_validator(mode="after")
    def _some_are_left(self) -> Self:
        if self.max_chars is not None and self.max_chars < self.min_chars:
            raise ValueError(f"max_chars ({self.max_chars}) must not be below min_chars ({self.min_chars})")
        return self


class ClipScoreParams(Section):
    """How alike a picture and a caption of it must be for a model. model: as in `compare.models` or `compare.fetched`."""

    model: LocalModel | FetchedModel
    at_least: float = Field(ge=-1, le=1)

    @field_validator("model", mode="before")
    @classmethod
    def _one_of_both(cls, model: object) -> object:
        if isinstance(model, Mapping) and not {"path", "tag"} & set(model):
            raise ValueError(
                f"{model} is not allowed: {{path: ...}} is, for a model on this disk (and architecture, if it is a checkpoint), "
                "or {architecture: ..., tag: ...}, for one whose weights are fetched"
            )
        return model
