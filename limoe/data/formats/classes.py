"""Class names and prompts of a user's own: YAML files, checked against the labels that the pictures have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from limoe.config import named_once
from limoe.data.tokenizer import fold
from limoe.errors import UserError
from limoe.paramsfile import read_value

Classes = dict[str, tuple[str, ...]]


def in_order(labels: Sequence[str | None]) -> list[str]:
    """The labels that occur, as a list of class names is read: numbers by size, anything else by letters."""
    found = {label for label in labels if label is not None}
    return sorted(found, key=int) if all(map(str.isdecimal, found)) else sorted(found)


def read_classes(file: Path, labels: Sequence[str | None], where: Path) -> Classes:
    """label -> names, from a list (a name a label, in the labels' order) or a mapping of labels to a name or several.

    UserError that says which, if a label has no name, a name no picture, or a listed name is that of another label.
    """
    told, present = read_value(file), in_order(labels)
    if isinstance(told, list):
        if len(told) != len(present):
            raise UserError(f"{file}: {len(told)} class names, but {where} has {len(present)} classes")
        classes = {label: _names(name, file) for label, name in zip(present, told, strict=True)}
        _check_places(classes, file, where)
        return classes
    classes = read_mapping(file)
    if nameless := [label for label in present if label not in classes]:
        raise UserError(f"{file}: no name for the class {nameless[0]!r} of {where}")
    if absent := [label for label in classes if label not in present]:
        raise UserError(f"{file}: names the class {absent[0]!r}, of which {where} has no picture")
    return classes


def read_list(file: Path) -> list[tuple[str, ...]] | None:
    """The names of classes that are numbered by their place in the file; None if it is no list."""
    told = read_value(file)
    return [_names(name, file) for name in told] if isinstance(told, list) else None


def read_mapping(file: Path) -> Classes:
    """label -> names, whatever labels there are."""
    told = read_value(file)
    if not isinstance(told, dict) or not told:
        raise UserError(f"{file}: must be a list of class names, or a mapping of classes to names")
    return {str(label): _names(name, file) for label, name in told.items()}


def read_templates(file: Path) -> Mapping[str, tuple[str, ...]]:
    """Ensembles by name, from a list (one ensemble) or a mapping, the first of which is reported under the set's own name."""
    told = read_value(file)
    lists = {"": told} if isinstance(told, list) else told
    if not isinstance(lists, dict) or not lists or not all(isinstance(one, list) and one for one in lists.values()):
        raise UserError(f"{file}: must be a list of templates, or a mapping of names to such lists")
    try:
        named = {str(name): named_once(tuple(map(str, templates))) for name, templates in lists.items()}
    except ValueError as error:
        raise UserError(f"{file}: {error}") from None
    first, *others = named
    return {"": named[first], **{name: named[name] for name in others}}


def _names(told: Any, file: Path) -> tuple[str, ...]:
    names = told if isinstance(told, list) else [told]
    if not names or not all(type(name) in (str, int) and str(name).strip() for name in names):
        raise UserError(f"{file}: {told!r} is no class name, nor a list of some; quote names that YAML reads as something else")
    return tuple(map(str, names))


def _check_places(classes: Classes, file: Path, where: Path) -> None:
    places = {_plain(label): label for label in classes}
    for label, (name, *_) in classes.items():
        if (owner := places.get(_plain(name), label)) != label:
            raise UserError(
                f"{file}: the order is not that of the classes of {where}: "
                f"{name!r} stands in the place of {label!r}, not of {owner!r}"
            )


def _plain(name: str) -> str:
    return fold(name.replace("_", " ").replace("-", " "))
