"""`train` and `contestants`: the recipe, and who follows it."""

from __future__ import annotations

from typing import Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from limoe.config.section import Section

Contestant = Literal["limoe", "dense", "clip"]
CONTESTANTS: tuple[Contestant, ...] = get_args(Contestant)
SelectionSplit = Literal["val", "val-style", "val-scenes"]
SELECTION_SPLITS: tuple[SelectionSplit, ...] = get_args(SelectionSplit)  # what anyone choosing a setting may look at
# What contestants may not change.
SHARED = (
    "seed",
    "threads",
    "precision",
    "steps",
    "batch",
    "mixture",
    "shuffle_rows",
    "loss",
    "positives",
    "crop_scale",
    "color_jitter",
    "flip",
    "rand_augment",
    "export",
    "select_without",
)


class CheckpointParams(Section):
    """When a training is saved, and how many of its checkpoints stay."""

    every: int = Field(ge=1)
    minutes: float | None = Field(gt=0)
    keep: int = Field(ge=1)


class RollbackParams(Section):
    """How a training goes on from a checkpoint before an alarm (limoe/train/rollback.py)."""

    lr_factor: float = Field(gt=0, le=1)
    most: int = Field(ge=1)


class HealthParams(Section):
    """What an alarm does, and when it is raised (limoe/train/health.py)."""

    action: Literal["warn", "stop", "rollback"]
    rollback: RollbackParams
    window: int = Field(ge=1)
    grace: float = Field(ge=0, le=1)
    placed: float = Field(ge=0, le=1)
    effective: float = Field(ge=0, le=1)
    dead: float = Field(ge=0, le=1)
    chance: float = Field(gt=0)
    diverged: float = Field(gt=1)
    logit_scale: float = Field(gt=1, le=100)


class LrScales(Section):
    """Learning rates of groups of parameters (limoe/train/groups.py), over `lr`."""

    router: float = Field(ge=0)
    experts: float = Field(ge=0)
    embeddings: float = Field(ge=0)


class RandAugmentParams(Section):
    """How pictures that may be cropped are changed besides (limoe/data/randaugment.py)."""

    operations: int = Field(ge=0)
    magnitude: int = Field(ge=0, le=30)


class TrainParams(Section):
    """The training recipe."""

    seed: int = Field(ge=0, le=1_000_000_000)
    threads: int = Field(ge=1)
    precision: Literal["auto", "float32", "bfloat16"]
    steps: int = Field(ge=1)
    batch: int = Field(ge=2)
    micro_batch: Literal["auto"] | int | None
    checkpoint_activations: bool
    mixture: dict[str, float] = Field(min_length=1)
    shuffle_rows: int = Field(ge=1)
    optimizer: Literal["adamw", "adafactor", "muon"]
    lr: float = Field(gt=0)
    lr_scale: LrScales
    schedule: Literal["cosine", "rsqrt", "wsd"]
    warmup: int = Field(ge=0)
    cooldown: int = Field(ge=0)
    loss: Literal["softmax", "sigmoid"]
    loss_chunk: int = Field(ge=1)
    positives: Literal["pair", "equal-captions"]
    weight_decay: float = Field(ge=0)
    beta1: float = Field(ge=0, lt=1)
    beta2: float = Field(ge=0, lt=1)
    clip_norm: float = Field(gt=0)
    ema: float | None = Field(gt=0, lt=1)
    init_scale: float = Field(ge=1, le=100)
    init_bias: float
    start_from: str | None
    bucket: int = Field(ge=1)
    compile: Literal["auto"] | bool
    crop_scale: float = Field(gt=0, le=1)
    color_jitter: float = Field(ge=0, lt=1)
    flip: float = Field(ge=0, le=1)
    rand_augment: RandAugmentParams
    max_bad_steps: int = Field(ge=1)
    checkpoints: CheckpointParams
    export: Literal["last", "best"]
    select_without: dict[str, list[SelectionSplit]]
    log_every: int = Field(ge=1)
    health: HealthParams

    @model_validator(mode="after")
    def _phases_fit(self) -> Self:
        if self.warmup + (0 if self.schedule == "cosine" else self.cooldown) > self.steps:
            raise ValueError(
                f"warmup ({self.warmup}), and cooldown unless the schedule is cosine, must fit into steps ({self.steps})"
            )
        return self

    @field_validator("compile", mode="before")
    @classmethod
    def _compiles(cls, compiles: object) -> object:
        if not (compiles == "auto" or isinstance(compiles, bool)):
            raise ValueError(f"{compiles!r} is not allowed: auto, true or false are")
        return compiles

    @field_validator("micro_batch", mode="before")
    @classmethod
    def _cuts(cls, micro_batch: object) -> object:
        if not (micro_batch in (None, "auto") or (type(micro_batch) is int and micro_batch > 0)):
            raise ValueError(f"{micro_batch!r} is not allowed: null, a whole number of pairs from 1, or auto is")
        return micro_batch

    @field_validator("mixture")
    @classmethod
    def _shares(cls, mixture: dict[str, float]) -> dict[str, float]:
        if min(mixture.values()) < 0 or sum(mixture.values()) <= 0:
            raise ValueError("the shares must not be negative, and one must be above 0")
        return mixture
