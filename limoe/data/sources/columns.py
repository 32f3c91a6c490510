"""Which column holds what: as `columns` says, else by the names that people give them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from limoe.config import ColumnParams
from limoe.data.sources.texts import found_label, legible
from limoe.errors import UserError

# Compared in small letters; the first that is there counts.
IMAGE = (
    *("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "image_bytes"),
    *("image_path", "img_path", "filepath", "file_path", "file_name", "filename", "path", "file"),
)
CAPTION = ("captions", "caption", "text", "txt", "sentences", "sentence", "description", "title", "alt_text", "alttext", "alt")
LABEL = ("label", "class", "class_name", "category")
SPLIT = ("split",)
GROUP = ("group",)
ADDRESS = ("url", "image_url", "img_url")


@dataclass(frozen=True)
class Columns:
    """Names of columns; captions may be in several."""

    image: str
    captions: tuple[str, ...]
    label: str | None
    split: str | None
    group: str | None

    @property
    def used(self) -> list[str]:
        """All that are read, each once."""
        named = (self.image, *self.captions, self.label, self.split, self.group)
        return list(dict.fromkeys(name for name in named if name))

    def spoken(self, row: Mapping[str, Any]) -> list[Any]:
        """The row's captions, from every column of them."""
        values = [row.get(name) for name in self.captions]
        return [one for value in values for one in (value if isinstance(value, list) else [value])]

    def told(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row's label, split and group; None for what there is no column of."""
        named = {"label": self.label, "split": self.split, "group": self.group}
        return {what: None if name is None else row.get(name) for what, name in named.items()}


class ByName(Columns):
    """Columns of which nobody named that of labels."""

    def told(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Without a label that cannot be one, where there are captions."""
        told = super().told(row)
        return told | {"label": found_label(told["label"], any(one is not None for one in self.spoken(row)))}


def choose(names: Iterable[str], given: ColumnParams, where: str) -> Columns:
    """The columns among `names`; UserError if one that `given` names is not there, or none that is needed."""
    there = list(names)
    told = f"{where}: its columns are {', '.join(map(legible, there[:30])) or 'none'}"
    captions = (given.caption,) if isinstance(given.caption, str) else given.caption or ()
    for name in (given.image, *captions, given.label, given.split, given.group):
        if isinstance(name, str) and name not in there:
            raise UserError(f"{told}; there is no {name!r}, which its key columns names")
    image = given.image or _first(IMAGE, there)
    if image is None:
        if address := _first(ADDRESS, there):
            raise UserError(f"{told}; {address} has addresses alone: download the pictures first, with img2dataset for one")
        raise UserError(f"{told}; none is known to hold images: name it with the set's columns: {{image: NAME}}")
    found = captions or tuple(filter(None, [_first(CAPTION, there)]))
    label = _unless_given(given.label, LABEL, there)
    if not found and label is None:
        raise UserError(f"{told}; none is known to hold captions or labels: name one with the set's columns: {{caption: NAME}}")
    split, group = _unless_given(given.split, SPLIT, there), _unless_given(given.group, GROUP, there)
    return (Columns if given.label else ByName)(image, found, label, split, group)


def _unless_given(given: str | Literal[False] | None, known: Iterable[str], there: list[str]) -> str | None:
    return None if given is False else given or _first(known, there)


def _first(known: Iterable[str], there: list[str]) -> str | None:
    lower = {name.lower(): name for name in reversed(there)}
    return next((lower[name] for name in known if name in lower), None)
