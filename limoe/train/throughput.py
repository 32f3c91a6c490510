"""How fast a training goes: pairs and tokens a second, and what share of what this device can do (MFU).

MFU is model FLOPs over the measured ceiling, both a second. Model FLOPs are those of limoe/model/flops.py, three times the
forward pass, whatever a kernel computes besides or again. The ceiling is the best rate of a plain matrix product on the same
device and in the same precision, measured when the training begins: no datasheet's.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, Self

import torch

from limoe.model.costs import TRAINING_PER_FORWARD
from limoe.train.energy import energy_counter

RECENT = 100  # intervals behind the median step
SIDES = {"cuda": (4096, 8192), "cpu": (512, 1024)}  # of the square products
IN_A_ROW = {"cuda": 10, "cpu": 1}  # products between two waits, so that a GPU does not idle in between
PATIENCE_SECONDS = 0.4  # of measuring, for each side


class Pace:
    """Seconds of a training's steps, taken only where the device has been waited for, and joules, where the device counts them.

    A single step's seconds say nothing on a GPU, which lags behind whoever gives it work. So the clock is read once an interval:
    at each row of the log (whose figures were fetched), before a checkpoint, and where a run ends. What lies between `lap` and
    `start` (checkpoints, validation) counts for nothing.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds = 0.0  # of all steps, those before an interruption included
        self._recent: deque[float] = deque(maxlen=RECENT)  # seconds a step, by interval
        self._device, self._energy = device, energy_counter(device)
        self.joules = 0.0 if self._energy else None  # of the same steps
        self._step, self._since, self._drawn = 0, 0.0, 0.0

    @property
    def step_seconds(self) -> float:
        """Median over the last intervals of the seconds that a step took, waiting for data included."""
        return median(self._recent)

    def start(self, step: int) -> None:
        """An interval begins after so many steps."""
        self._step, self._since = step, time.perf_counter()
        self._drawn = self._energy() if self._energy else 0.0

    def lap(self, step: int) -> None:
        """The interval ends after so many steps, and the next one begins; nothing happens if there was no step."""
        if step == self._step:
            return
        wait(self._device)
        seconds = time.perf_counter() - self._since
        self.seconds += seconds
        self._recent.append(seconds / (step - self._step))
        if self._energy and self.joules is not None:
            self.joules += self._energy() - self._drawn
        self.start(step)

    def state_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"seconds": self.seconds, "recent": list(self._recent), "joules": self.joules}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.seconds = state["seconds"]
        self._recent = deque(state["recent"], maxlen=RECENT)
        self.joules = state["joules"]


@dataclass(frozen=True)
class Throughput:
    """tflops: model FLOPs a second, in 10^12; ceiling_tflops: the measured ceiling; mfu: their ratio. None: not measured."""

    pairs_per_s: float
    tokens_per_s: float
    tflops: float
    ceiling_tflops: float | None = None
    mfu: float | None = None

    @classmethod
    def of(cls, step_seconds: float, pairs: int, tokens: float, forward_flops: float, ceiling: float | None) -> Self:
        """Of steps of so many pairs. tokens, forward_flops: of one pair, patches and text. ceiling: FLOP/s.

        A step of 10 pairs that cost 2 TFLOP forward takes 6 s on a device that multiplies matrices at 40 TFLOP/s:

        >>> Throughput.of(6.0, pairs=10, tokens=30.0, forward_flops=2e12, ceiling=40e12)
        Throughput(pairs_per_s=1.667, tokens_per_s=50.0, tflops=10.0, ceiling_tflops=40.0, mfu=0.25)
        """
        rate = pairs / step_seconds
        flops = TRAINING_PER_FORWARD * forward_flops * rate
        return cls(
            pairs_per_s=round(rate, 3),
            tokens_per_s=round(rate * tokens, 1),
            tflops=round(flops / 1e12, 4),
            ceiling_tflops=None if ceiling is None else round(ceiling / 1e12, 2),
            mfu=None if ceiling is None else round(flops / ceiling, 4),
        )

    def __str__(self) -> str:
        """For people.

        >>> print(Throughput(1234.5, 45678.9, 10.0, 40.0, 0.25))
        1,234 pairs/s, 45,679 tokens/s, MFU 25.0% of the 40 TFLOP/s that a matrix product reaches here
        """
        speed = f"{self.pairs_per_s:,.0f} pairs/s, {self.tokens_per_s:,.0f} tokens/s"
        if self.mfu is None:
            return speed
        return f"{speed}, MFU {self.mfu:.1%} of the {self.ceiling_tflops:,.0f} TFLOP/s that a matrix product reaches here"


def matmul_ceiling(device: torch.device, precision: torch.dtype) -> float:
    """The best rate that a square matrix product reached here, FLOP/s; takes about a second.

    The operands are random (zeros multiply faster) and drawn apart, so that nothing else that is random changes.
    """
    return max(_rate(side, device, precision) for side in SIDES[device.type])


def gpu_ceiling(device: torch.device, precision: torch.dtype) -> float | None:
    """`matmul_ceiling` before a training fills the card, whose peak of memory is counted from here; None on a processor, whose
    cores a training shares with its loader and with everything else."""
    if device.type != "cuda":
        return None
    ceiling = matmul_ceiling(device, precision)
    torch.cuda.reset_peak_memory_stats(device)
    return ceiling


def wait(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _rate(side: int, device: torch.device, precision: torch.dtype) -> float:
    generator = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn(side, side, generator=generator, device=device, dtype=precision) for _ in range(2))
    out, products = left @ right, IN_A_ROW[device.type]
    best, begun = float("inf"), time.perf_counter()
    while time.perf_counter() - begun < PATIENCE_SECONDS:
        wait(device)
        start = time.perf_counter()
        for _ in range(products):
            torch.mm(left, right, out=out)
        wait(device)
        best = min(best, time.perf_counter() - start)
    return products * 2 * side**3 / best
