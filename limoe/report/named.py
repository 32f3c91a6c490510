"""Named budgets: batch, steps and resolution are fixed, after DataComp's scales, so that anyone's two numbers are comparable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class NamedBudget:
    """What overlays/NAME.yaml fixes: optimiser steps, pairs a step, and the picture's side in px."""

    steps: int
    batch: int
    image_size: int

    @property
    def samples(self) -> int:
        """Pairs seen."""
        return self.steps * self.batch


NAMED = {
    "debug": NamedBudget(30, 64, 48),
    "small": NamedBudget(1_700, 256, 48),
    "medium": NamedBudget(3_125, 4_096, 224),
    "large": NamedBudget(31_250, 4_096, 224),
}


def describe_budget(settings: Mapping[str, Any]) -> str:
    """The budget of a training's settings (params.json), by name if it has one.

    >>> describe_budget({"train": {"steps": 30, "batch": 64}, "model": {"tower": {"image_size": 48}}})
    '`debug`: 30 steps of 64 pairs at 48 px'
    """
    train, size = settings["train"], settings["model"]["tower"]["image_size"]
    budget = NamedBudget(train["steps"], train["batch"], size)
    name = next((f"`{name}`" for name, known in NAMED.items() if known == budget), "of no name")
    return f"{name}: {budget.steps:,} steps of {budget.batch:,} pairs at {budget.image_size} px"
