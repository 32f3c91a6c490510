"""Names that a sweep does not search, because another one that it does search decides them.

model.moe.group_pairs: {equal: train.batch}            # the same value
train.steps: {total: 38400, over: train.batch}         # equal pairs for every batch
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from limoe.errors import UserError
from limoe.sweep.dimension import Dimension, Value
from limoe.sweep.names import nearest


@dataclass(frozen=True)
class Tie:
    """source: the searched name. total: what the value times the source's is to be, rounded; None: the value is the source's."""

    source: str
    total: float | None = None

    @classmethod
    def parse(cls, name: str, spec: Mapping[str, Any], free: Mapping[str, Dimension]) -> Tie:
        """The tie that a line of a space describes; UserError if it follows no searched name, or a total one without numbers."""
        key = "equal" if "equal" in spec else "over"
        source, total = spec.get(key), spec.get("total")
        if not isinstance(source, str) or source not in free:
            raise UserError(
                f"{name}: {key} must name another searched name, and {source!r} is none{nearest(str(source), list(free))}"
            )
        if key == "over":
            if isinstance(total, bool) or not isinstance(total, int | float) or not 0 < total < math.inf:
                raise UserError(f"{name}: total must be a number above 0, and is {total!r}")
            if not all(isinstance(end, int | float) and not isinstance(end, bool) and end > 0 for end in free[source].ends):
                raise UserError(f"{name}: over must name numbers above 0, and {source} may be others")
        return cls(source, total)

    @property
    def document(self) -> dict[str, Any]:
        """The line of a space that parses to this."""
        return {"equal": self.source} if self.total is None else {"total": self.total, "over": self.source}

    def value(self, of: Value) -> Value:
        """What the tied name is where the source is `of`.

        >>> Tie("train.batch", 38400).value(256), Tie("train.batch").value(256)
        (150, 256)
        """
        if self.total is None:
            return of
        assert isinstance(of, int | float)  # `parse` has seen to it
        return max(1, round(self.total / of))


def is_tie(spec: Any) -> bool:
    """Whether a line of a space searches nothing, but lets its name follow another."""
    return isinstance(spec, Mapping) and ("equal" in spec or "total" in spec or "over" in spec)


def with_ties(values: Mapping[str, Value], ties: Mapping[str, Tie]) -> dict[str, Value]:
    """The point `values`, and the names tied to it; a tie whose source is not there is left out."""
    return {**values, **{name: tie.value(values[tie.source]) for name, tie in ties.items() if tie.source in values}}


def ties_of(document: Mapping[str, Any]) -> dict[str, Tie]:
    """The ties of a space's document that limoe.sweep.space has accepted."""
    specs = {name: spec for name, spec in document.items() if is_tie(spec)}
    return {name: Tie(str(spec.get("equal", spec.get("over"))), spec.get("total")) for name, spec in specs.items()}
