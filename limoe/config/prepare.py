"""`prepare` and `balance`: what a prepared set is made of, and what its analysis aims at."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from limoe.config.duplicates import DuplicateParams
from limoe.config.filters import CaptionParams, ClipScoreParams, PictureParams
from limoe.config.section import Section
from limoe.config.sets import SetParams, check_names


class EmojiParams(Section):
    """The embedded default source: Twemoji and OpenMoji pictures with the names of the `emoji` package."""

    size: int = Field(ge=16, le=1024)
    languages: tuple[str, ...] = Field(min_length=1)
    aliases: bool
    limit: int | None = Field(ge=10)


class ScenesParams(Section):
    """Scenes composed of pictures, with captions that name them and how they lie to each other."""

    pictures: Literal["emoji", "shapes"]
    train: int = Field(ge=0)
    val: int = Field(ge=0)
    test: int = Field(ge=0)
    canvas: int = Field(ge=16, le=1024)
    min_pictures: int = Field(ge=1, le=4)
    max_pictures: int = Field(ge=1, le=4)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_pictures > self.max_pictures:
            raise ValueError(f"min_pictures ({self.min_pictures}) must not exceed max_pictures ({self.max_pictures})")
        return self


class TokenizerParams(Section):
    """Which tokenizer, and how many entries at most."""

    kind: Literal["unigram", "bpe", "open_clip"]
    vocab_size: int = Field(ge=64)


class PrepareParams(Section):
    """Sources, and how they become a prepared set."""

    sources: tuple[str, ...] = Field(min_length=1)
    seed: int = Field(ge=0)
    shard_rows: int = Field(ge=1)
    max_pixels: int = Field(ge=1, le=178_000_000)  # from 2^29 / 3 on Pillow itself refuses
    emoji: EmojiParams
    scenes: ScenesParams
    sets: dict[str, SetParams]
    pictures: PictureParams
    captions: CaptionParams
    clip_score: ClipScoreParams | None
    duplicates: DuplicateParams
    tokenizer: TokenizerParams

    @model_validator(mode="after")
    def _compares_what_is_alike(self) -> Self:
        anew = self.pictures.encode != "keep" or self.pictures.shortest_side is not None
        if anew and self.duplicates.against and self.duplicates.radius is None:
            raise ValueError(
                "duplicates.against needs a duplicates.radius where pictures are encoded anew: their bytes are no test set's"
            )
        return self

    @model_validator(mode="after")
    def _leaves_alone_what_stays_in_place(self) -> Self:
        anew = [key for key, plain in (("encode", "keep"), ("shortest_side", None)) if getattr(self.pictures, key) != plain]
        staying = [name for name in self.sources if name in self.sets and self.sets[name].in_place]
        if anew and staying:
            raise ValueError(
                f"pictures.{anew[0]} encodes pictures anew, and with sets.{staying[0]}.in_place they are read as they lie in the "
                f"tars: set pictures.{anew[0]} to {'keep' if anew[0] == 'encode' else 'null'}, or in_place to false"
            )
        return self

    @field_validator("sources")
    @classmethod
    def _named_once(cls, sources: tuple[str, ...]) -> tuple[str, ...]:
        if twice := [name for name in sources if sources.count(name) > 1]:
            raise ValueError(f"names {twice[0]!r} twice")
        return sources

    @field_validator("sets")
    @classmethod
    def _named(cls, sets: dict[str, SetParams]) -> dict[str, SetParams]:
        return check_names(sets)


class BalanceParams(Section):
    """What the modality-balance analysis aims at, and how many untrained models it looks at."""

    target_placed: float = Field(gt=0, le=1)
    seeds: int = Field(ge=0)
    batches: int = Field(ge=1)
