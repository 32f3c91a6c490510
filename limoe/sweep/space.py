"""The space of a sweep: dotted names of `model` and `train` with ranges, choices, ties and conditions.

    train.lr: {low: 5.0e-4, high: 2.0e-2, log: true}
    train.warmup: {low: 0, high: 200, step: 50}
    model.moe.experts: {choices: [8, 16]}
    model.moe.group_pairs: {equal: train.batch}                      # tied: follows train.batch, is not searched
    model.moe.bias_rate: {low: 1e-4, high: 1e-2, log: true, when: {model.moe.router: [loss-free]}}

A *point* holds a value for each searched name whose conditions hold; all other settings keep their base value.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import Trial

from limoe.config import CONTESTANTS, Contestant, Params
from limoe.errors import UserError
from limoe.sweep.dimension import KEYS, Dimension, Value, parse_distribution
from limoe.sweep.names import check_name, nearest, settings


@dataclass(frozen=True)
class Space:
    """dimensions: the searched names, each after those that its conditions name. ties: name -> the searched name it follows."""

    origin: str
    dimensions: tuple[Dimension, ...]
    ties: dict[str, str]

    @classmethod
    def parse(cls, document: Mapping[str, Any], params: Params, contestant: str, origin: str) -> Space:
        """The space that `document` describes for this contestant; UserError, before anything runs, for what cannot be.

        The ends of each range, and each choice, must fit `params` (alone, or together with an end of one other name).
        """
        if contestant not in CONTESTANTS:
            raise UserError(f"contestant {contestant!r} is not allowed: {', '.join(CONTESTANTS)} are")
        if not isinstance(document, Mapping) or not document:
            raise UserError(
                f"{origin}: a space must be a mapping with at least one name, such as train.lr: {{low: 1e-3, high: 1e-2}}"
            )
        try:
            space = cls(origin, *_parsed(document, params, contestant))
        except UserError as error:
            raise UserError(f"{origin}: {error}") from None
        for dimension in space.dimensions:
            space._check_ends(dimension, params, contestant)
        return space

    @property
    def document(self) -> dict[str, Any]:
        """The space as a mapping that parses to the same one: nothing implied (whole numbers have `int`), numbers as numbers."""
        return {one.name: one.document for one in self.dimensions} | {
            name: {"equal": source} for name, source in self.ties.items()
        }

    @property
    def names(self) -> list[str]:
        """The searched names."""
        return [dimension.name for dimension in self.dimensions]

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's distribution of each searched name."""
        return {dimension.name: dimension.distribution for dimension in self.dimensions}

    @property
    def conditional(self) -> bool:
        """Whether a name is searched only under conditions."""
        return any(dimension.when for dimension in self.dimensions)

    def suggest(self, ask: Trial) -> dict[str, Value]:
        """A point drawn by the sampler of `ask`'s study; a name that the trial already has keeps its value."""
        values: dict[str, Value] = {}
        for dimension in self.dimensions:
            if _active(dimension, values):
                values[dimension.name] = dimension.suggest(ask)
        return values

    def normal(self, values: Mapping[str, Any]) -> dict[str, Value]:
        """`values` in the space's order and types, without names whose conditions do not hold.

        UserError for a name that the space lacks and a value that it does not allow. A name may be missing: its base value holds.
        """
        if unknown := [name for name in values if name not in self.names]:
            raise UserError(f"{self.origin}: {unknown[0]} is not searched{nearest(unknown[0], self.names)}")
        point: dict[str, Value] = {}
        for dimension in self.dimensions:
            if dimension.name in values and _active(dimension, point):
                try:
                    point[dimension.name] = dimension.cast(values[dimension.name])
                except ValueError as error:
                    raise UserError(f"{self.origin}: {dimension.name}: {error}") from None
        return point

    def with_ties(self, values: Mapping[str, Any]) -> dict[str, Value]:
        """The point `values`, and the names tied to it."""
        point = self.normal(values)
        return point | {name: point[source] for name, source in self.ties.items() if source in point}

    def resolve(self, params: Params, values: Mapping[str, Any], seed: int, contestant: Contestant) -> Params:
        """Full parameters of one trial; UserError names what does not fit.

        What `contestants` changes for this contestant is merged into `train` and all of `contestants` cleared, so that the trial
        trains with exactly `train`. Only limoe has routing groups: for the others a group is a batch, whatever its size.
        """
        document = params.model_dump(mode="json")
        document["train"] = params.train_for(contestant).model_dump(mode="json")
        document["contestants"] = {name: {} for name in CONTESTANTS}
        for name, value in (self.with_ties(values) | {"train.seed": seed}).items():
            *sections, last = name.split(".")
            node = document
            for section in sections:
                node = node[section]
            node[last] = value
        if contestant != "limoe":
            document["model"]["moe"]["group_pairs"] = document["train"]["batch"]
        point = ", ".join(f"{name} = {value}" for name, value in values.items()) or "the base values"
        return Params.parse(document, f"{self.origin}, {point}")

    def grid(self) -> dict[str, list[Value]]:
        """Every value of each name; UserError if one is a range without steps."""
        for dimension in self.dimensions:
            if dimension.listed is None:
                raise UserError(
                    f"{self.origin}: a grid needs choices, whole numbers or a step for every name, and {dimension.name} is a "
                    "continuous range"
                )
        return {dimension.name: list(dimension.listed or ()) for dimension in self.dimensions}

    def _check_ends(self, dimension: Dimension, params: Params, contestant: Contestant) -> None:
        for end in dimension.ends:
            refusals: list[str] = []
            for others in self._surroundings(dimension):
                try:
                    self.resolve(params, others | {dimension.name: end}, params.train.seed, contestant)
                    break
                except UserError as error:
                    refusals.append(str(error).partition(": ")[2] or str(error))
            else:
                raise UserError(
                    f"{self.origin}: {dimension.name} = {end!r} is refused, the other settings being at their base value or at "
                    f"an end of their range: {refusals[0]}"
                )

    def _surroundings(self, dimension: Dimension) -> Iterator[dict[str, Value]]:
        """What `dimension` may stand beside: its conditions met and the others at base; then also one other name at an end."""
        conditions = list(self._conditions(dimension))
        yield from conditions
        for condition in conditions:
            for other in self.dimensions:
                if other.name not in (dimension.name, *condition):
                    yield from (condition | own | {other.name: end} for own in self._conditions(other) for end in other.ends)

    def _conditions(self, dimension: Dimension) -> Iterator[dict[str, Value]]:
        """Every way to meet the conditions of `dimension`, and theirs."""
        own = [[{name: value} for value in values] for name, values in dimension.when.items()]
        parents = [list(self._conditions(parent)) for parent in self.dimensions if parent.name in dimension.when]
        for parts in itertools.product(*parents, *own):
            yield {name: value for part in parts for name, value in part.items()}


def _active(dimension: Dimension, values: Mapping[str, Value]) -> bool:
    return all(name in values and values[name] in allowed for name, allowed in dimension.when.items())


def _parsed(document: Mapping[str, Any], params: Params, contestant: Contestant) -> tuple[tuple[Dimension, ...], dict[str, str]]:
    types = settings(params)
    free: dict[str, Dimension] = {}
    ties: dict[str, str] = {}
    for name, spec in document.items():
        check_name(str(name), params, contestant)
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
