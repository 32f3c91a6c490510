"""A space's document read: every name checked, ranges, choices, ties and conditions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limoe.config import Contestant, Params
from limoe.errors import UserError
from limoe.sweep.dimension import Dimension, Value
from limoe.sweep.names import check_name, nearest, settings
from limoe.sweep.ranges import parse_distribution
from limoe.sweep.ties import Tie, is_tie

KEYS = ("low", "high", "log", "step", "int", "choices", "equal", "total", "over", "when")
KINDS = {  # kind of line -> the keys that mark it, and those that may stand beside them
    "low and high": ({"low", "high"}, {"log", "step", "int", "when"}),
    "choices": ({"choices"}, {"when"}),
    "equal": ({"equal"}, set[str]()),
    "total and over": ({"total", "over"}, set[str]()),
}


def parse_dimensions(
    document: Mapping[str, Any], params: Params, contestant: Contestant
) -> tuple[tuple[Dimension, ...], dict[str, Tie]]:
    """The searched names, each after those of its conditions, and the ties by name; UserError for what cannot be."""
    types = settings(params)
    free: dict[str, Dimension] = {}
    ties: dict[str, Tie] = {}
    for name, spec in document.items():
        check_name(str(name), params, contestant)
        _check_keys(name, spec)
        try:
            if not is_tie(spec):
                free[name] = Dimension(name, parse_distribution(spec, types[name] is int))
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
    for name, spec in document.items():
        if is_tie(spec):
            ties[name] = Tie.parse(name, spec, free)
        elif "when" in spec:
            free[name] = Dimension(name, free[name].distribution, _when(name, spec["when"], free))
    return _ordered(free), ties


def _check_keys(name: str, spec: Any) -> None:
    if not isinstance(spec, Mapping):
        raise UserError(f"{name}: must be a range, choices or a tie, such as {{low: 1, high: 2}}, and is {spec!r}")
    if unknown := [key for key in spec if key not in KEYS]:
        raise UserError(f"{name}: unknown key {unknown[0]}{nearest(str(unknown[0]), list(KEYS))}; allowed are {', '.join(KEYS)}")
    kinds = [kind for kind, (marks, _) in KINDS.items() if marks & set(spec)]
    if len(kinds) != 1:
        allowed = "low and high, choices, equal, or total and over"
        raise UserError(f"{name}: must have one of {allowed}, and has {' and '.join(kinds) or 'none'}")
    marks, beside = KINDS[kinds[0]]
    if other := [key for key in spec if key not in marks | beside]:
        raise UserError(f"{name}: {other[0]} does not go with {kinds[0]}")


def _when(name: str, when: Any, free: Mapping[str, Dimension]) -> dict[str, tuple[Value, ...]]:
    if not isinstance(when, Mapping) or not when:
        raise UserError(f"{name}: when must be a mapping, such as {{model.moe.router: [loss-free]}}, and is {when!r}")
    conditions: dict[str, tuple[Value, ...]] = {}
    for other, values in when.items():
        if other == name or other not in free:
            known = [one for one in free if one != name]
            raise UserError(f"{name}: when must name another searched name, and {other} is none{nearest(str(other), known)}")
        if free[other].listed is None:
            raise UserError(f"{name}: when needs a name with choices, whole numbers or steps, and {other} is a continuous range")
        if not isinstance(values, list | tuple) or not values:
            raise UserError(f"{name}: when: {other} must have a list of values, and has {values!r}")
        try:
            conditions[other] = tuple(free[other].cast(value) for value in values)
        except ValueError as error:
            raise UserError(f"{name}: when: {other}: {error}") from None
    return conditions


def _ordered(free: Mapping[str, Dimension]) -> tuple[Dimension, ...]:
    """Each name after those of its conditions, otherwise as written; UserError for conditions in a circle."""
    ordered: dict[str, Dimension] = {}
    while len(ordered) < len(free):
        ready = [one for name, one in free.items() if name not in ordered and set(one.when) <= set(ordered)]
        if not ready:
            circle = [name for name in free if name not in ordered]
            raise UserError(f"{circle[0]}: its condition depends on {circle[-1]}, whose own depends on it")
        ordered[ready[0].name] = ready[0]
    return tuple(ordered.values())
