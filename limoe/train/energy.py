"""What a GPU has drawn, as NVML counts it: the whole card, whoever else uses it."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch

MILLIJOULES = 1e-3
Joules = Callable[[], float]


def energy_counter(device: torch.device) -> Joules | None:
    """A function that reads the joules drawn since the driver was loaded; None on a processor, without pynvml, or where the card
    does not count (before Volta)."""
    if device.type != "cuda":
        return None
    try:
        import pynvml
    except ModuleNotFoundError:
        return None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:
        return None
    return lambda: MILLIJOULES * cast(int, pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))
