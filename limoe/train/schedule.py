"""The learning rate as a function of the step."""

from __future__ import annotations

import math

from limoe.config import TrainParams


def learning_rate(step: int, train: TrainParams) -> float:
    """The learning rate of step `step` (from 0 to steps - 1): linear warm-up to `lr`, then the schedule.

    cosine falls to 0 at the end. rsqrt is lr * sqrt(warmup / step) (V-MoE's schedule), wsd stays at lr (warm-up, stable, decay);
    both fall linearly to 0 over the last `cooldown` steps.
    """
    if step < train.warmup:
        return train.lr * (step + 1) / train.warmup
    if train.schedule == "cosine":
        progress = (step - train.warmup) / max(1, train.steps - train.warmup)
        return train.lr * 0.5 * (1 + math.cos(math.pi * progress))
    before = math.sqrt(max(1, train.warmup) / max(1, step)) if train.schedule == "rsqrt" else 1.0
    return train.lr * before * min(1.0, (train.steps - step) / max(1, train.cooldown))
