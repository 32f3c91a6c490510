"""What a model is and what it costs, as plain values, before anything is built.

Models are built on torch's meta device, so nothing is allocated. FLOPs come from `limoe.model.flops`, memory and days, with what
they assume, from `limoe.model.costs`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limoe.config import Params
from limoe.data.suggestion import with_suggestion
from limoe.errors import UserError
from limoe.model.costs import TRAINING_PER_FORWARD, training_cost, training_memory
from limoe.model.flops import active_parameters, total_parameters, tower_flops
from limoe.model.presets import Preset, find_preset
from limoe.paths import Paths
from limoe.placement import moe_layers
from limoe.report.published import ROWS

PAIRS = 256  # a batch, where nobody names one
H100_TFLOPS = 989.0  # H100 SXM, bfloat16, dense
MFU = 0.4
OPEN_CLIP_ENTRIES = 49_409  # CLIP's 49,408 and our padding
YAML = (".yaml", ".yml")  # what tells a file of parameters from a preset


@dataclass(frozen=True)
class Schedule:
    """A whole training: samples (pairs seen), and the devices it runs on."""

    samples: float
    gpus: int = 1
    mfu: float = MFU
    tflops: float = H100_TFLOPS


def schedule_of(samples: float | None, **devices: float | int | None) -> Schedule | None:
    """The training that the options describe, None if they name none; UserError if they describe devices without samples."""
    given = {name: value for name, value in devices.items() if value is not None}
    if samples is None:
        if given:
            raise UserError(f"--{next(iter(given))} says how fast a training is: name its length too, as in --samples 12.8e9")
        return None
    return Schedule(samples, **given)  # type: ignore[arg-type]  # names and types are those of the options


def find_model(name: str, overrides: tuple[str, ...] = ()) -> tuple[Preset, int]:
    """(the model, pairs of a batch): a preset, or the limoe that a file of parameters (*.yaml) describes, with overrides.

    UserError for an unknown preset, a file that is missing or wrong, overrides of a preset, or the router `auto` without its
    suggestion.
    """
    if not name.endswith(YAML):
        if overrides:
            raise UserError(
                f"--set changes a file of parameters, and {name} is a preset: `limoe info {name} --yaml` writes an overlay, and "
                f"`limoe params --overlay` merges it into params.yaml"
            )
        return find_preset(name), PAIRS
    if not Path(name).is_file():
        raise UserError(f"{name}: no such file")
    params = with_suggestion(Params.load(Path(name), overrides), Paths(Path(name).parent))
    tokenizer = params.prepare.tokenizer
    entries = OPEN_CLIP_ENTRIES if tokenizer.kind == "open_clip" else tokenizer.vocab_size
    train = params.train_for("limoe")
    return Preset(name, params.model.tower, params.model.moe, entries, train.lr, "file"), train.batch


def describe(preset: Preset, batch: int, schedule: Schedule | None = None) -> dict[str, Any]:
    """Everything about a model as plain values, units in the names; captions are taken as long as the tower allows.

    UserError for a batch below 1 or a schedule out of range.
    """
    if batch < 1:
        raise UserError(f"--batch {batch}: must be at least 1 pair")
    tower, moe, model = preset.tower, preset.moe, preset.on_meta()
    caption, flops = tower.text_length, tower_flops(tower, [tower.text_length], moe)
    memory = training_memory(model, tower, moe, batch, caption)
    facts: dict[str, Any] = {
        "name": preset.name,
        "made_for": preset.made_for,
        "depth": tower.depth,
        "width": tower.width,
        "hidden": tower.hidden,
        "heads": tower.heads,
        "experts": moe.experts,
        "k": moe.k,
        "moe_blocks": moe_layers(tower.depth, moe.blocks),
        "image_size": tower.image_size,
        "patch_size": tower.patch_size,
        "image_tokens": tower.image_tokens,
        "text_tokens": caption,
        "tokens_per_pair": tower.image_tokens + caption,
        "image_tokens_per_text_token": tower.image_tokens / caption,
        "vocab_size": preset.vocab_size,
        "lr": preset.lr,
        "params_total": total_parameters(model),
        "params_active": active_parameters(model, moe.k),
        "flops_per_pair_forward": flops,
        "flops_per_pair_training": TRAINING_PER_FORWARD * flops,
        "flops_against_dense": flops / tower_flops(tower, [caption]),
        "batch": batch,
        "memory_bytes": {**vars(memory), "total": memory.total},
        "hardware": preset.hardware,
        "time": preset.time,
        "score": preset.score,
        "published_imagenet_top1": next((row.imagenet for row in ROWS if row.model == f"LIMoE {preset.name}"), None),
    }
    if schedule is not None:
        cost = training_cost(flops, schedule.samples, schedule.gpus, schedule.mfu, schedule.tflops)
        facts["training"] = {**vars(schedule), **vars(cost)}
    return facts
