"""One name of a space: the values that it may take, how Optuna is asked for one, and where values lie in the unit interval."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

Value = bool | int | float | str | None
STEP_TOLERANCE = 1e-8  # of a step: Optuna's own


@dataclass(frozen=True)
class Dimension:
    """A searched name. when: other name -> the values of it under which this name is searched; empty for always."""

    name: str
    distribution: BaseDistribution
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    def suggest(self, trial: Trial) -> Value:
        """This trial's value, drawn by the study's sampler."""
        of = self.distribution
        if isinstance(of, CategoricalDistribution):
            return _plain(trial.suggest_categorical(self.name, of.choices))
        if isinstance(of, IntDistribution):
            return int(trial.suggest_int(self.name, of.low, of.high, step=of.step, log=of.log))
        assert isinstance(of, FloatDistribution)
        return float(trial.suggest_float(self.name, of.low, of.high, step=of.step, log=of.log))

    def cast(self, value: Any) -> Value:
        """`value` (from a table or a file: 16.0 for 16) as this name's own; ValueError if it is none of its values."""
        of = self.distribution
        if isinstance(of, CategoricalDistribution):
            found = [choice for choice in of.choices if choice == value and isinstance(choice, bool) == isinstance(value, bool)]
            if not found:
                raise ValueError(f"{value!r} is none of its choices: {', '.join(map(str, of.choices))}")
            return _plain(found[0])
        assert isinstance(of, IntDistribution | FloatDistribution)
        number = not isinstance(value, bool) and isinstance(value, int | float) and of.low <= value <= of.high
        if not number or not on_step(value, of.low, of.step):
            raise ValueError(f"{value!r} is outside its range, {of.low} to {of.high}" + (f" by {of.step}" if of.step else ""))
        return round(value) if isinstance(of, IntDistribution) else float(value)

    @property
    def document(self) -> dict[str, Any]:
        """What a space's document says of this name."""
        of = self.distribution
        when = {"when": {name: list(values) for name, values in self.when.items()}} if self.when else {}
        if isinstance(of, CategoricalDistribution):
            return {"choices": list(of.choices)} | when
        assert isinstance(of, IntDistribution | FloatDistribution)
        whole = isinstance(of, IntDistribution)
        step = {} if of.log or of.step in (None, 1 if whole else None) else {"step": of.step}
        return {"low": of.low, "high": of.high} | ({"log": True} if of.log else step) | ({"int": True} if whole else {}) | when

    @property
    def ends(self) -> tuple[Value, ...]:
        """Both ends of the range, or every choice."""
        of = self.distribution
        if isinstance(of, CategoricalDistribution):
            return tuple(of.choices)
        assert isinstance(of, IntDistribution | FloatDistribution)
        return of.low, of.high

    @property
    def listed(self) -> tuple[Value, ...] | None:
        """All of its values where they can be listed (choices, whole numbers, steps); None for a continuous range."""
        of = self.distribution
        if isinstance(of, CategoricalDistribution):
            return tuple(of.choices)
        if isinstance(of, IntDistribution):
            return tuple(range(of.low, of.high + 1, of.step))
        assert isinstance(of, FloatDistribution)
        if of.step is None:
            return None
        low, step = Decimal(str(of.low)), Decimal(str(of.step))
        return tuple(float(low + place * step) for place in range(round((of.high - of.low) / of.step) + 1))

    def at(self, unit: float) -> Value:
        """The value at `unit` in [0, 1): listed values take equal parts of it, ranges are linear or logarithmic.

        >>> Dimension("a", IntDistribution(1, 4)).at(0.5)
        3
        """
        of = self.distribution
        if (listed := self.listed) is not None and not getattr(of, "log", False):
            return listed[min(int(unit * len(listed)), len(listed) - 1)]
        assert isinstance(of, IntDistribution | FloatDistribution)
        low, high = self._bounds()
        value = math.exp(math.log(low) + unit * (math.log(high) - math.log(low))) if of.log else low + unit * (high - low)
        value = min(max(value, of.low), of.high)
        return round(value) if isinstance(of, IntDistribution) else value

    def unit(self, value: Any) -> float:
        """Where `value` lies in the unit interval: the inverse of `at` (for a listed value the middle of its part)."""
        of = self.distribution
        if (listed := self.listed) is not None and not getattr(of, "log", False):
            return (listed.index(self.cast(value)) + 0.5) / len(listed)
        low, high = self._bounds()
        if getattr(of, "log", False):
            return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
        return float((value - low) / (high - low))

    def _bounds(self) -> tuple[float, float]:
        of = self.distribution
        assert isinstance(of, IntDistribution | FloatDistribution)
        half = 0.5 if isinstance(of, IntDistribution) else 0.0  # rounding then gives the first and the last their full part
        return of.low - half, of.high + half


def on_step(value: float, low: float, step: float | None) -> bool:
    """Whether whole steps lead from `low` to `value`; without steps any value will do."""
    places = 0.0 if step is None else (value - low) / step
    return abs(places - round(places)) < STEP_TOLERANCE


def _plain(value: Any) -> Value:
    assert value is None or isinstance(value, bool | int | float | str)
    return value
