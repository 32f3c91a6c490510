"""A space's document read: every name checked, ranges, choices, ties and conditions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limoe.config import Contestant, Params
from limoe.errors import UserError
from limoe.sweep.dimension import Dimension, Value
from limoe.sweep.names import check_name, is_tie, nearest, settings
from limoe.sweep.ranges import parse_distribution

KEYS = ("low", "high", "log", "step", "int", "choices", "equal", "when")


def parse_dimensions(
    document: Mapping[str, Any], params: Params, contestant: Contestant
) -> tuple[tuple[Dimension, ...], dict[str, str]]:
    """The searched names, each after those of its conditions, and ties (name -> searched one); UserError for what cannot be."""
    types = settings(params)
    free: dict[str, Dimension] = {}
    ties: dict[str, str] = {}
    for name, spec in document.items():
        check_name(str(name), params, contestant, is_tie(spec))
        _check_keys(name, spec)
        try:
            if "equal" not in spec:
                free[name] = Dimension(name, parse_distribution(spec, types[name] is int))
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
    for name, spec in document.items():
        if "equal" in spec:
            ties[name] = _source(name, spec["equal"], free)
        elif "when" in spec:
            free[name] = Dimension(name, free[name].distribution, _when(name, spec["when"], free))
    return _ordered(free), ties


def _check_keys(name: str, spec: Any) -> None:
    if not isinstance(spec, Mapping):
        raise UserError(f"{name}: must be a range, choices or a tie, such as {{low: 1, high: 2}}, and is {spec!r}")
    if unknown := [key for key in spec if key not in KEYS]:
        raise UserError(f"{name}: unknown key {unknown[0]}{nearest(str(unknown[0]), list(KEYS))}; allowed are {', '.join(KEYS)}")
    kinds = [
        kind
        for kind, keys in (("low and high", {"low", "high"}), ("choices", {"choices"}), ("equal", {"equal"}))
        if keys & set(spec)
    ]
    if len(kinds) != 1:
        raise UserError(f"{name}: must have one of low and high, choices, or equal, and has {' and '.join(kinds) or 'none'}")
    fits = {"low and high": set(KEYS) - {"choices", "equal"}, "choices": {"choices", "when"}, "equal": {"equal"}}[kinds[0]]
    if other := [key for key in spec if key not in fits]:
        raise UserError(f"{name}: {other[0]} does not go with {kinds[0]}")


def _source(name: str, source: Any, free: Mapping[str, Dimension]) -> str:
    if source not in free:
        raise UserError(
            f"{name}: equal must name another searched name, and {source!r} is none{nearest(str(source), list(free))}"
        )
    return str(source)


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
