"""`machine`: what belongs to this machine, and not to the experiment."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from limoe.config.section import Section
from limoe.config.train import TrainParams

DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


class MachineParams(Section):
    """What belongs to the machine: in no stage's params and in no fingerprint."""

    device: str
    processes: int = Field(ge=1)
    expert_parallel: int = Field(ge=1)
    shard_weights: bool
    workers: int = Field(ge=0)
    prepare_workers: Literal["auto"] | int
    dask: str | None
    cache_mb: int = Field(ge=0)
    tracking: Literal["mlflow", "none"]

    @field_validator("device")
    @classmethod
    def _known(cls, device: str) -> str:
        if not DEVICE.fullmatch(device):
            raise ValueError(f"{device!r} is not allowed: auto, cpu, cuda or cuda:N is, such as cuda:0")
        return device

    @field_validator("prepare_workers", mode="before")
    @classmethod
    def _some(cls, workers: object) -> object:
        if not (workers == "auto" or (type(workers) is int and workers > 0)):
            raise ValueError(f"{workers!r} is not allowed: auto, or a whole number of processes from 1, is")
        return workers

    @model_validator(mode="after")
    def _devices_enough(self) -> Self:
        if self.processes > 1 and ":" in self.device:
            raise ValueError(f"device = {self.device} is one GPU, and processes = {self.processes}: use auto, cpu or cuda")
        return self

    def check(self, train: TrainParams) -> None:
        """ValueError if a training of this recipe cannot have its weights in parts."""
        if train.micro_batch == "auto" and (self.expert_parallel > 1 or self.shard_weights):
            raise ValueError(
                "train.micro_batch = auto needs machine.expert_parallel = 1 and machine.shard_weights = false: a process that "
                "runs out of memory within a block would leave the others waiting; name a number of pairs"
            )
        if train.optimizer != "adamw" and self.shard_weights:
            raise ValueError(
                f"machine.shard_weights needs train.optimizer = adamw: {train.optimizer} looks at whole matrices; set it to false"
            )
