"""The searched parameters as axes of a unit cube, read from a space's document or guessed from the values that were tried."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from limoe.sweep.findings import AxisFacts
from limoe.sweep.ties import is_tie

FEW = 6  # so many different numbers or fewer are choices, where no document says
DECADE = 10.0  # a guessed range wider than this factor is read as logarithmic


@dataclass(frozen=True)
class Axis:
    """One parameter: a range (low < high) or choices; `conditional` if some points have no value for it."""

    name: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    integer: bool = False
    choices: tuple[Any, ...] | None = None
    conditional: bool = False

    @property
    def numeric(self) -> bool:
        """Whether the axis has an order: a range, or choices that are all numbers."""
        return self.choices is None or all(_is_number(choice) for choice in self.choices)

    def unit(self, value: Any) -> float:
        """Where the value lies: 0..1 along a range, by rank among choices; NaN if it is absent or no choice.

        >>> Axis("lr", 1e-4, 1e-2, log=True).unit(1e-3)
        0.5
        """
        if self.choices is not None:
            return self.choices.index(value) / max(1, len(self.choices) - 1) if value in self.choices else math.nan
        if not _is_number(value) or (self.log and value <= 0):
            return math.nan
        if self.log:
            return round(math.log(value / self.low) / math.log(self.high / self.low), 12)
        return float((value - self.low) / (self.high - self.low))

    def place(self, point: Mapping[str, Any]) -> float:
        """Where a point's value lies, NaN if it has none: null may be a choice, and is not the same."""
        return self.unit(point[self.name]) if self.name in point else math.nan

    def value(self, unit: float) -> Any:
        """The value at a place in 0..1; whole where the axis is, the nearest choice among choices."""
        if self.choices is not None:
            return self.choices[round(min(1.0, max(0.0, unit)) * (len(self.choices) - 1))]
        value = self.low * (self.high / self.low) ** unit if self.log else self.low + unit * (self.high - self.low)
        return round(value) if self.integer else value

    def facts(self) -> AxisFacts:
        """As a finding."""
        choices = None if self.choices is None else list(self.choices)
        low, high = (self.low, self.high) if choices is None else (None, None)
        return AxisFacts(self.name, low, high, self.log, self.integer, choices, self.numeric, self.conditional)


def parse_axes(document: Mapping[str, Any]) -> list[Axis]:
    """The axes of a space's document, in its order; names tied to another are none.

    Numeric choices are put in ascending order. The document is one that limoe.sweep.space has accepted.
    """
    return [_axis(name, spec) for name, spec in document.items() if not is_tie(spec)]


def guess_axes(values: Iterable[Mapping[str, Any]]) -> list[Axis]:
    """Axes from the points themselves, for a table that came without its space: names in the order of their first use.

    More than six different numbers make a range between their ends, on a log scale if they are positive and span over a factor
    of ten; anything else makes choices. A name with a single value is no axis.
    """
    tried: dict[str, list[Any]] = {}
    points = 0
    for point in values:
        points += 1
        for name, value in point.items():
            tried.setdefault(name, []).append(value)
    axes = [_guess(name, found, len(found) < points) for name, found in tried.items()]
    return [axis for axis in axes if axis is not None]


def _axis(name: str, spec: Mapping[str, Any]) -> Axis:
    conditional = "when" in spec
    if "choices" in spec:
        return Axis(name, choices=_in_order(spec["choices"]), conditional=conditional)
    low, high, step = float(spec["low"]), float(spec["high"]), spec.get("step")
    whole = all(isinstance(spec[end], int) for end in ("low", "high")) and isinstance(step, int)
    return Axis(name, low, high, bool(spec.get("log")), bool(spec.get("int")) or whole, conditional=conditional)


def _guess(name: str, found: list[Any], conditional: bool) -> Axis | None:
    different = [value for i, value in enumerate(found) if value not in found[:i]]
    if len(different) < 2:
        return None
    if len(different) <= FEW or not all(_is_number(value) for value in different):
        return Axis(name, choices=_in_order(different), conditional=conditional)
    low, high = float(min(different)), float(max(different))
    whole = all(isinstance(value, int) for value in different)
    return Axis(name, low, high, low > 0 and high / low > DECADE, whole, conditional=conditional)


def _in_order(choices: Iterable[Any]) -> tuple[Any, ...]:
    listed = tuple(choices)
    return tuple(sorted(listed)) if all(_is_number(choice) for choice in listed) else listed


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
