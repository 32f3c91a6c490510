"""Ranges and choices as a space's document writes them, made Optuna's distributions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from limoe.errors import UserError
from limoe.paramsfile import number_like
from limoe.sweep.dimension import Value, on_step


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
    if not on_step(high, low, step):
        reached = float(Decimal(str(low)) + int((high - low) / step) * Decimal(str(step)))
        raise UserError(f"high ({high}) is not reached from low ({low}) by steps of {step}; {reached} is")


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
