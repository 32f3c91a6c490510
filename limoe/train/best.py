"""The step whose weights were best on the validation sets: what `train.export: best` ends a training with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from limoe.config import TrainParams
from limoe.errors import UserError

Validate = Callable[[], dict[str, float]]  # figures of the model as it is; `loss` is what is compared


class Best:
    """Measures at every `train.checkpoints.every` steps and at the end, whatever else is saved: no result may depend on time.

    validate: None to measure nothing. step: the best one so far, the first of equals; None before one had a finite loss.
    """

    def __init__(self, train: TrainParams, validate: Validate | None) -> None:
        self._train, self._validate = train, validate
        self.step: int | None = None
        self.figures: dict[str, float] = {}

    def due(self, step: int) -> bool:
        """Whether the model is measured at the end of this step, which then has a row of metrics and a checkpoint."""
        return self._validate is not None and (step % self._train.checkpoints.every == 0 or step == self._train.steps)

    def measure(self, step: int) -> dict[str, float]:
        """The figures of this step's row, `validation/...`; none if it is not measured."""
        if self._validate is None or not self.due(step):
            return {}
        figures = self._validate()
        if math.isfinite(figures["loss"]) and figures["loss"] < self.figures.get("loss", math.inf):
            self.step, self.figures = step, figures
        return {f"validation/{name}": value for name, value in figures.items()}

    @property
    def needs(self) -> tuple[int, ...]:
        """Steps of the checkpoints that must stay."""
        return () if self.step is None else (self.step,)

    @property
    def chosen(self) -> int:
        """The best step; UserError if there is none."""
        if self.step is None:
            raise UserError("train.export = best: the validation loss was never finite; last exports the last weights")
        return self.step

    def state_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"step": self.step, "figures": self.figures}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.step, self.figures = state["step"], dict(state["figures"])
