"""`params.yaml`, typed: one frozen model a section; load, overlay, override."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from limoe.errors import UserError
from limoe.paramsfile import explain, read_yaml, set_dotted
from limoe.placement import ALLOWED, is_placement, moe_layers

Contestant = Literal["limoe", "dense", "clip"]
CONTESTANTS: tuple[Contestant, ...] = get_args(Contestant)
SHARED = (
    "seed",
    "threads",
    "precision",
    "steps",
    "batch",
    "mixture",
    "loss",
    "positives",
    "crop_scale",
    "color_jitter",
    "export",
)  # what contestants may not change
CLASSIFIED = ("imagenet", "folder", "parquet", "webdataset")  # kinds of test sets that may have classes
CAPTIONED = ("coco", "flickr8k", "flickr30k")  # those with several captions a picture
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")  # of a further contestant: a folder, and part of a stage's name
AUX_TERMS = ("importance", "load", "z", "local_text", "local_image", "global_text", "global_image")


class Section(BaseModel):
    """A section of params.yaml: frozen, and a key that it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class EmojiParams(Section):
    """The embedded default source: Twemoji and OpenMoji pictures with the names of the `emoji` package."""

    size: int = Field(ge=16, le=1024)
    languages: tuple[str, ...] = Field(min_length=1)
    aliases: bool
    limit: int | None = Field(ge=10)


class ScenesParams(Section):
    """Scenes composed of pictures, with captions that name them and how they lie to each other."""

    pictures: Literal["emoji", "shapes"]
    train: int = Field(ge=0)
    val: int = Field(ge=0)
    test: int = Field(ge=0)
    canvas: int = Field(ge=16, le=1024)
    min_pictures: int = Field(ge=1, le=4)
    max_pictures: int = Field(ge=1, le=4)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_pictures > self.max_pictures:
            raise ValueError(f"min_pictures ({self.min_pictures}) must not exceed max_pictures ({self.max_pictures})")
        return self


class FolderParams(Section):
    """A user's folder of images with a csv or jsonl of captions."""

    images: str | None
    captions: str | None
    val_fraction: float = Field(ge=0, lt=1)
    test_fraction: float = Field(ge=0, lt=1)

    @model_validator(mode="after")
    def _leaves_training_data(self) -> Self:
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError("val_fraction + test_fraction must stay below 1, or nothing is left to train on")
        return self


class TokenizerParams(Section):
    """Which tokenizer, and how many entries at most."""

    kind: Literal["unigram", "bpe", "open_clip"]
    vocab_size: int = Field(ge=64)


class PrepareParams(Section):
    """Sources, and how they become a prepared set."""

    sources: tuple[str, ...] = Field(min_length=1)
    seed: int = Field(ge=0)
    shard_rows: int = Field(ge=1)
    max_pixels: int = Field(ge=1, le=178_000_000)  # from 2^29 / 3 on Pillow itself refuses
    emoji: EmojiParams
    scenes: ScenesParams
    folder: FolderParams
    tokenizer: TokenizerParams

    @field_validator("sources")
    @classmethod
    def _named_once(cls, sources: tuple[str, ...]) -> tuple[str, ...]:
        if twice := [name for name in sources if sources.count(name) > 1]:
            raise ValueError(f"names {twice[0]!r} twice")
        return sources


class BalanceParams(Section):
    """What the modality-balance analysis aims at."""

    target_placed: float = Field(gt=0, le=1)


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
    router: Literal["top-k", "expert-choice", "loss-free", "uniform"]
    capacity_factor: float = Field(gt=0)
    priority: Literal["bpr", "first-come", "shuffled", "image-first", "text-first"]
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
    tau_text: float | Literal["balance"] | None
    tau_image: float | Literal["balance"] | None
    layers: Literal["mean", "sum"]

    @field_validator("blocks", mode="before")
    @classmethod
    def _placement(cls, blocks: object) -> object:
        if not is_placement(blocks):
            raise ValueError(f"{blocks!r} is no placement; allowed are {ALLOWED}")
        return blocks

    @field_validator("tau_text", "tau_image", mode="before")
    @classmethod
    def _threshold(cls, tau: object) -> object:
        number = isinstance(tau, int | float) and not isinstance(tau, bool) and tau >= 0
        if not (tau is None or tau == "balance" or number):
            raise ValueError(f"{tau!r} is no threshold; allowed are a number of nats from 0, balance, or null")
        return tau

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
        """(tau_text, tau_image) in nats; by default the paper's log 9 and log 20 at E = 32, scaled to E.

        ValueError for `balance`, which `suggested` must have replaced.
        """
        text = math.log(math.ceil(9 * self.experts / 32)) if self.tau_text is None else self.tau_text
        image = math.log(math.ceil(20 * self.experts / 32)) if self.tau_image is None else self.tau_image
        if text == "balance" or image == "balance":
            raise ValueError("moe.tau_text and moe.tau_image must be numbers here: balance has not been looked up")
        return text, image

    def suggested(self, tau_text: float, tau_image: float) -> MoeParams:
        """With these thresholds wherever `balance` is asked for."""
        asked = {"tau_text": (self.tau_text, tau_text), "tau_image": (self.tau_image, tau_image)}
        return self.model_copy(update={name: tau for name, (value, tau) in asked.items() if value == "balance"})


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
        if self.moe.renormalise and self.moe.k == 1 and self.moe.router in ("top-k", "loss-free"):
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
    max_bad_steps: int = Field(ge=1)
    checkpoints: CheckpointParams
    export: Literal["last", "best"]
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


class EvalSetParams(Section):
    """A test set of the user's own (docs/evaluation.md). Paths are relative to the project."""

    path: str
    kind: Literal["imagenet", "folder", "parquet", "webdataset", "coco", "flickr8k", "flickr30k"]
    split: str | None = None
    labels: str | None = None
    captions: str | None = None
    classes: str | None = None
    templates: str | None = None
    subset: Literal["imagenet", "imagenet-a", "imagenet-r"] | None = None

    @model_validator(mode="after")
    def _used(self) -> Self:
        readers = {"labels": ("imagenet",), "subset": ("imagenet",), "captions": CAPTIONED}
        readers |= dict.fromkeys(("classes", "templates"), CLASSIFIED)
        for key, kinds in readers.items():
            if getattr(self, key) is not None and self.kind not in kinds:
                raise ValueError(f"{key} is of no use to the kind {self.kind}, but to {', '.join(kinds)}")
        return self


class EvaluateParams(Section):
    """How models are scored."""

    batch: int = Field(ge=1)
    chunk: int = Field(ge=1)
    templates: tuple[str, ...] = Field(min_length=1)
    calibration_bins: int = Field(ge=2)
    routing_pairs: int = Field(ge=0)
    sets: dict[str, EvalSetParams]

    @field_validator("templates")
    @classmethod
    def _name_the_class(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        return named_once(templates)

    @field_validator("sets")
    @classmethod
    def _named(cls, sets: dict[str, EvalSetParams]) -> dict[str, EvalSetParams]:
        for name in sets:
            if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
                raise ValueError(f"the name {name!r} must be of small letters, digits, and . _ - between them")
        return sets


def named_once(templates: tuple[str, ...]) -> tuple[str, ...]:
    """The templates; ValueError if one does not hold {} once."""
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(f"the template {template!r} must hold {{}} once, where the class name goes")
    return templates


class OtherModel(Section):
    """What a further contestant may say of itself. seed_of: the contestant of which it is another training. samples: pairs seen
    in its training; None where nobody knows, or where a record beside it, or open_clip's tag, says it."""

    seed_of: str | None = None
    samples: float | None = Field(default=None, gt=0)


class LocalModel(OtherModel):
    """A model on this disk. path: a folder (ours, open_clip's or transformers'), or a checkpoint of one `architecture`."""

    path: str
    architecture: str | None = None


class FetchedModel(OtherModel):
    """One of open_clip's pretrained models, by its two names."""

    architecture: str
    tag: str


class CompareParams(Section):
    """Statistics of the comparison, and the contestants that are not trained here."""

    bootstrap: int = Field(ge=1000)  # with fewer, no p could survive Holm's correction over a report's tests
    seed: int = Field(ge=0)
    tuning: dict[str, int]
    models: dict[str, LocalModel]
    fetched: dict[str, FetchedModel]

    @property
    def others(self) -> dict[str, LocalModel | FetchedModel]:
        """Every contestant that is not trained here, in the order of the report."""
        return {**self.models, **self.fetched}

    @model_validator(mode="after")
    def _names(self) -> Self:
        known = [*CONTESTANTS, *self.others]
        for name in self.others:
            if not NAME.fullmatch(name) or name in CONTESTANTS or (name in self.models and name in self.fetched):
                raise ValueError(f"{name!r} is no name for a further contestant: letters, digits, - and _, and no name twice")
        for name, other in self.others.items():
            if other.seed_of is not None and (other.seed_of not in known or other.seed_of == name):
                raise ValueError(f"seed_of of {name} is {other.seed_of!r}, which is no other contestant: {', '.join(known)} are")
            if other.seed_of in self.others and self.others[other.seed_of].seed_of is not None:
                raise ValueError(f"seed_of of {name} is {other.seed_of!r}, itself a seed of another: name the first")
        for name, trials in self.tuning.items():
            if name not in known or trials < 0:
                raise ValueError(f"tuning.{name} = {trials}: allowed are {', '.join(known)} with a number of trials from 0")
        return self


class MachineParams(Section):
    """What belongs to the machine: in no stage's params and in no fingerprint."""

    device: str = Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    processes: int = Field(ge=1)
    expert_parallel: int = Field(ge=1)
    shard_weights: bool
    workers: int = Field(ge=0)
    cache_mb: int = Field(ge=0)
    tracking: Literal["mlflow", "none"]

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


class Params(Section):
    """All of params.yaml."""

    prepare: PrepareParams
    balance: BalanceParams
    model: ModelParams
    train: TrainParams
    contestants: dict[Contestant, dict[str, Any]]
    evaluate: EvaluateParams
    compare: CompareParams
    sweep: dict[str, Any]
    machine: MachineParams

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if missing := [name for name in CONTESTANTS if name not in self.contestants]:
            raise ValueError(
                f"contestants.{missing[0]} is missing; all of {', '.join(CONTESTANTS)} must be there, {{}} for no change"
            )
        wanted = [name for name, share in self.train.mixture.items() if share > 0]
        if unknown := [name for name in wanted if name not in self.prepare.sources]:
            raise ValueError(
                f"train.mixture.{unknown[0]}: not among prepare.sources, which are {', '.join(self.prepare.sources)}"
            )
        experts, owners = self.model.moe.experts, self.machine.expert_parallel
        if experts % owners:
            raise ValueError(f"machine.expert_parallel ({owners}) must divide model.moe.experts ({experts})")
        batch, group = self.train.batch, self.model.moe.group_pairs
        if batch % group:
            raise ValueError(f"train.batch ({batch}) must be a multiple of model.moe.group_pairs ({group})")
        for name in self.contestants:
            self.machine.check(self.train_for(name))
            micro = self.train_for(name).micro_batch
            if isinstance(micro, int) and (batch % micro or micro % group):
                where = f"contestants.{name}" if "micro_batch" in self.contestants[name] else "train"
                raise ValueError(
                    f"{where}.micro_batch ({micro}) must divide train.batch ({batch}) and be a multiple of "
                    f"model.moe.group_pairs ({group})"
                )
        return self

    @property
    def everyone(self) -> tuple[str, ...]:
        """The names of all contestants: the trained ones, then the further ones."""
        return (*CONTESTANTS, *self.compare.others)

    @classmethod
    def load(cls, path: Path, overrides: tuple[str, ...] = ()) -> Params:
        """Read `path` and apply `overrides` ("train.lr=1e-3"); UserError names key, value and what is allowed."""
        values = read_yaml(path)
        for override in overrides:
            set_dotted(values, override)
        return cls.parse(values, str(path))

    @classmethod
    def parse(cls, values: dict[str, Any], origin: str) -> Params:
        """Validate a mapping; `origin` is the name that errors give it."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise UserError(f"{origin}: {explain(error, Params)}") from None
        except UserError as error:
            raise UserError(f"{origin}: {error}") from None

    def train_for(self, contestant: Contestant) -> TrainParams:
        """The training recipe with this contestant's changes; UserError if they do not fit."""
        changes = self.contestants.get(contestant, {})
        if shared := [key for key in changes if key in SHARED]:
            raise UserError(
                f"contestants.{contestant}.{shared[0]}: contestants see the same data in the same order, under the same loss, so "
                f"that the models alone differ; change train.{shared[0]} for all of them (a contestant's own may be, say, lr or "
                "weight_decay)"
            )
        try:
            return TrainParams.model_validate({**self.train.model_dump(), **changes})
        except ValidationError as error:
            raise UserError(f"contestants.{contestant}: {explain(error, TrainParams)}") from None
