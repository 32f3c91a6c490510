"""The space of a sweep: dotted names of `model` and `train` with ranges, choices, ties and conditions.

    train.lr: {low: 5.0e-4, high: 2.0e-2, log: true}
    train.warmup: {low: 0, high: 200, step: 50}
    model.moe.experts: {choices: [8, 16]}
    model.moe.group_pairs: {equal: train.batch}                      # tied: follows train.batch, is not searched
    train.steps: {total: 38400, over: train.batch}                   # tied: equal pairs for every batch
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
from limoe.sweep.dimension import Dimension, Value
from limoe.sweep.names import nearest
from limoe.sweep.spaceparse import parse_dimensions
from limoe.sweep.ties import Tie, with_ties


@dataclass(frozen=True)
class Space:
    """dimensions: the searched names, each after those that its conditions name. ties: what else follows them, by name."""

    origin: str
    dimensions: tuple[Dimension, ...]
    ties: dict[str, Tie]

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
            space = cls(origin, *parse_dimensions(document, params, contestant))
        except UserError as error:
            raise UserError(f"{origin}: {error}") from None
        for dimension in space.dimensions:
            space._check_ends(dimension, params, contestant)
        return space

    @property
    def document(self) -> dict[str, Any]:
        """The space as a mapping that parses to the same one: nothing implied (whole numbers have `int`), numbers as numbers."""
        return {one.name: one.document for one in self.dimensions} | {name: tie.document for name, tie in self.ties.items()}

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
        return with_ties(self.normal(values), self.ties)

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
