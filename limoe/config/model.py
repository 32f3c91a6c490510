"""`model`: the tower, the mixture of experts, CLIP's text tower."""

from __future__ import annotations

import math
from typing import Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from limoe.config.section import Section
from limoe.placement import ALLOWED, is_placement, moe_layers

Priority = Literal["bpr", "first-come", "shuffled", "image-first", "text-first"]
PRIORITIES: tuple[Priority, ...] = get_args(Priority)
AUX_TERMS = ("importance", "load", "z", "local_text", "local_image", "global_text", "global_image")


class TowerParams(Section):
    """The shared tower's shape."""

    image_size: int = Field(ge=1)
    patch_size: int = Field(ge=1)
    text_length: int = Field(ge=2)
    width: int = Field(ge=1)
    depth: int = Field(ge=2)
    heads: int = Field(ge=1)
    mlp_ratio: float = Field(gt=0)
    embed_dim: int = Field(ge=1)

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size ({self.image_size}) must be a multiple of patch_size ({self.patch_size})")
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads})")
        if self.hidden < 1:
            raise ValueError(f"mlp_ratio ({self.mlp_ratio}) leaves the MLP no channel at width {self.width}")
        return self

    @property
    def image_tokens(self) -> int:
        """Tokens of one image: its patches."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def hidden(self) -> int:
        """Hidden width of the MLP and of each expert."""
        return round(self.width * self.mlp_ratio)


class AuxWeights(Section):
    """Weight of each auxiliary term (the names of the paper, section 2.2); 0 switches a term off."""

    importance: float = Field(ge=0)
    load: float = Field(ge=0)
    z: float = Field(ge=0)
    local_text: float = Field(ge=0)
    local_image: float = Field(ge=0)
    global_text: float = Field(ge=0)
    global_image: float = Field(ge=0)

    def active(self) -> dict[str, float]:
        """The terms with a weight above 0."""
        return {name: weight for name in AUX_TERMS if (weight := getattr(self, name)) > 0}


class MoeParams(Section):
    """The mixture of experts and its router."""

    experts: int = Field(ge=2)
    k: int = Field(ge=1)
    blocks: str | tuple[int, ...]
    init: Literal["independent", "identical"]
    router: Literal["auto", "top-k", "expert-choice", "loss-free", "uniform"]
    capacity_factor: float = Field(gt=0)
    priority: Priority
    noise: float = Field(ge=0)
    renormalise: bool
    bias_rate: float = Field(ge=0)
    bias_scope: Literal["joint", "modality"]
    threshold_decay: float = Field(ge=0, lt=1)
    group_pairs: int = Field(ge=1)
    kernel: Literal["auto", "loop", "slots", "streamed", "grouped"]
    aux_coefficient: float = Field(ge=0)
    aux_rule: Literal["average", "fixed"]
    aux_scope: Literal["group", "global"]
    aux_weights: AuxWeights
    tau_text: float | None = Field(ge=0)
    tau_image: float | None = Field(ge=0)
    layers: Literal["mean", "sum"]

    @field_validator("blocks", mode="before")
    @classmethod
    def _placement(cls, blocks: object) -> object:
        if not is_placement(blocks):
            raise ValueError(f"{blocks!r} is no placement; allowed are {ALLOWED}")
        return blocks

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.k > self.experts:
            raise ValueError(f"k ({self.k}) must not exceed experts ({self.experts})")
        if self.noise == 0 and self.aux_weights.load > 0 and self.aux_coefficient > 0:
            raise ValueError("the load loss needs noise > 0: set moe.noise above 0 or moe.aux_weights.load to 0")
        return self

    @property
    def sigma(self) -> float:
        """Standard deviation of the router noise: `noise` / E."""
        return self.noise / self.experts

    @property
    def thresholds(self) -> tuple[float, float]:
        """(tau_text, tau_image) in nats; by default the paper's log 9 and log 20 at E = 32, scaled to E."""
        text = math.log(math.ceil(9 * self.experts / 32)) if self.tau_text is None else self.tau_text
        image = math.log(math.ceil(20 * self.experts / 32)) if self.tau_image is None else self.tau_image
        return text, image


class ClipParams(Section):
    """The two-tower baseline's text tower."""

    text_depth: int = Field(ge=1)


class ModelParams(Section):
    """The tower, and what limoe and clip add to it."""

    tower: TowerParams
    moe: MoeParams
    clip: ClipParams

    @model_validator(mode="after")
    def _blocks_exist(self) -> Self:
        try:
            moe_layers(self.tower.depth, self.moe.blocks)
        except ValueError as error:
            raise ValueError(f"moe.blocks: {error}") from None
        return self

    @model_validator(mode="after")
    def _router_learns(self) -> Self:
        if self.moe.renormalise and self.moe.k == 1 and self.moe.router in ("auto", "top-k", "loss-free"):
            raise ValueError(
                "moe.renormalise with k = 1 makes every gate 1, from which the router would learn nothing: set k to 2 or more"
            )
        return self

    @model_validator(mode="after")
    def _kernel_runs(self) -> Self:
        if self.moe.kernel == "grouped" and (self.tower.width % 8 or self.tower.hidden % 8):
            raise ValueError(
                f"moe.kernel = grouped needs width ({self.tower.width}) and hidden ({self.tower.hidden}) in multiples of 8"
            )
        return self
