"""A file of parameters as people write it: reading, overriding a key, and pydantic's errors as sentences."""

from __future__ import annotations

import difflib
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from limoe.errors import UserError, did_you_mean


class _EachKeyOnce(yaml.SafeLoader):
    """YAML, where a key that stands twice is an error: of its two values one would be lost unseen."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node; ConstructorError names the key's second place."""
        found = set()
        for name, _ in node.value:
            if isinstance(name, yaml.ScalarNode):
                if name.value in found:
                    raise yaml.constructor.ConstructorError(None, None, f"the key {name.value} stands twice", name.start_mark)
                found.add(name.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; UserError if it is missing or no mapping."""
    values = read_value(path, "; run this in the project's folder or name it with --params")
    if not isinstance(values, dict):
        raise UserError(f"{path}: must be a mapping of sections, is {type(values).__name__}")
    return values


def read_value(path: Path, advice: str = "") -> Any:
    """Whatever a YAML (or JSON) file holds; UserError if it is missing, with `advice`, or neither."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _EachKeyOnce)
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path}: no such file{advice}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None


def set_dotted(values: dict[str, Any], assignment: str) -> None:
    """Apply "a.b=value" (value in YAML) to nested mappings, in place; UserError if it is malformed."""
    key, equals, text = assignment.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UserError(f"override {assignment!r}: must look like section.key=value")
    node: Any = values
    for part in parts[:-1]:
        node = node.setdefault(part, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict):
            raise UserError(f"override {assignment!r}: {part!r} is a value, not a section")
    try:
        node[parts[-1]] = number_like(yaml.safe_load(text))
    except (yaml.YAMLError, ValueError):  # ValueError: what looks like a date and is none
        raise UserError(f"override {assignment!r}: {text!r} is not a value in YAML; quote it or close its brackets") from None


def number_like(value: Any) -> Any:
    """`value`, or the number it spells: YAML 1.1 reads 1e-3 (no dot) as text, which no user means."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first problem of a pydantic error as a sentence: key, value, what is allowed, and the nearest key if it is unknown."""
    problem = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in problem["loc"])
    named = key or "the whole file"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key}{_nearest(model, problem['loc'])}{more}"
    if problem["type"] == "missing":
        return f"{named} is missing{more}"
    if problem["type"] == "value_error":
        return f"{key + ': ' if key else ''}{problem['ctx']['error']}{more}"
    allowed = (problem["msg"][0].lower() + problem["msg"][1:]).replace("tuple", "list")  # YAML has no tuples
    guess = _nearest_choice(problem)
    return f"{named} = {problem['input']!r} is not allowed: {allowed}{guess}{more}"


def _nearest(model: type[BaseModel], location: tuple[int | str, ...]) -> str:
    section: Any = model
    for part in location[:-1]:
        section = _under(section, str(part))
    names = list(getattr(section, "model_fields", ()))
    close = difflib.get_close_matches(str(location[-1]), names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {'.'.join([*map(str, location[:-1]), close[0]])}?"
    return f"; allowed here: {', '.join(names)}" if names else ""


def _under(kind: Any, part: str) -> Any:
    """The type of what lies under a key of a section, or of a mapping of names to sections; None if that could be several."""
    if hasattr(kind, "model_fields"):
        found = kind.model_fields[part].annotation if part in kind.model_fields else None
    else:
        found = get_args(kind)[1] if get_origin(kind) is dict else None
    if get_origin(found) in (Union, UnionType):
        among = [one for one in get_args(found) if one is not NoneType]
        return among[0] if len(among) == 1 else None
    return found


def _nearest_choice(problem: Any) -> str:
    if problem["type"] != "literal_error":
        return ""
    choices = [word.strip("' ") for word in problem["ctx"]["expected"].replace(" or ", ",").split(",")]
    return did_you_mean(str(problem["input"]), choices)
