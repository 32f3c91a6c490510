"""One name of a space: the values that it may take, how Optuna is asked for one, and where values lie in the unit interval."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from limoe.errors import UserError
from limoe.paramsfile import number_like

Value = bool | int | float | str | None
KEYS = ("low", "high", "log", "step", "int", "choices", "equal", "when")
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
        if not number or not _on_step(value, of.low, of.step):
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


def parse_distribution(spec: Mapping[str, Any], whole: bool) -> BaseDistribution:
    """The values that `spec` allows; whole: the setting is an integer, so a range is one of integers.

    UserError (what is wrong, without the name) for an empty or impossible range and for choices that are empty or doubled.
    """
    return _choices(spec["choices"], whole) if "choices" in spec else _range(spec, whole)


def _choices(choices: Any, whole: bool) -> CategoricalDistribution:
    if not isinstance(choices, list | tuple) or not choices:
        raise UserError("choices must be a list with at least one value")
    values = [_choice(choice, whole) for choice in choices]
    if twice := [value for place, value in enumerate(values) if value in values[:place]]:
        raise UserError(f"choices name {twice[0]!r} twice")
    return CategoricalDistribution(values)


def _choice(choice: Any, whole: bool) -> Value:
    if not (choice is None or isinstance(choice, bool | int | float | str)):
        raise UserError(f"the choice {choice!r} must be a number, text, true, false or null")
    value: Value = _finite(choice) if isinstance(choice, int | float | str) and not isinstance(choice, bool) else choice
    return int(value) if whole and isinstance(value, float) and value.is_integer() else value


def _finite(value: int | float | str) -> int | float | str:
    number = number_like(value)
    if isinstance(number, float) and not math.isfinite(number):
        if isinstance(value, str):
            return value
        raise UserError(f"{value} is not a finite number")
    return number if isinstance(number, int | float) else value


def _range(spec: Mapping[str, Any], whole: bool) -> IntDistribution | FloatDistribution:
    low, high = _number(spec, "low"), _number(spec, "high")
    log = _flag(spec, "log")
    if spec.get("int") is False and whole:
        raise UserError("int: false does not fit, the setting is a whole number")
    whole = whole or _flag(spec, "int")
    step = _number(spec, "step") if spec.get("step") is not None else None
    if low >= high:
        raise UserError(f"the range is empty: low ({low}) must be below high ({high})")
    if log and low <= 0:
        raise UserError(f"a logarithmic range must lie above 0, and low is {low}")
    if log and step is not None:
        raise UserError("log and step exclude each other")
    _check_step(low, high, step)
    if not whole:
        return FloatDistribution(float(low), float(high), log=log, step=None if step is None else float(step))
    for key, value in (("low", low), ("high", high), ("step", 1 if step is None else step)):
        if not float(value).is_integer():
            raise UserError(f"{key} ({value}) must be a whole number, as the setting is one")
    return IntDistribution(int(low), int(high), log=log, step=1 if step is None else int(step))


def _check_step(low: float, high: float, step: float | None) -> None:
    if step is None:
        return
    if not 0 < step <= high - low:
        raise UserError(f"step ({step}) must be above 0 and at most high - low ({high - low})")
    if not _on_step(high, low, step):
        reached = float(Decimal(str(low)) + int((high - low) / step) * Decimal(str(step)))
        raise UserError(f"high ({high}) is not reached from low ({low}) by steps of {step}; {reached} is")


def _on_step(value: float, low: float, step: float | None) -> bool:
    places = 0.0 if step is None else (value - low) / step
    return abs(places - round(places)) < STEP_TOLERANCE


def _number(spec: Mapping[str, Any], key: str) -> int | float:
    value = number_like(spec.get(key))
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{key} must be a number, is {spec.get(key)!r}")
    return value


def _flag(spec: Mapping[str, Any], key: str) -> bool:
    value = spec.get(key, False)
    if not isinstance(value, bool):
        raise UserError(f"{key} must be true or false, is {value!r}")
    return value


def _plain(value: Any) -> Value:
    assert value is None or isinstance(value, bool | int | float | str)
    return value
