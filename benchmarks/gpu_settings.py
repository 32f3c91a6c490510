"""What `python -m benchmarks.gpu` measures, at the issue's sizes and at sizes of seconds."""

from __future__ import annotations

import json
from dataclasses import dataclass

from benchmarks.contrastive import PAIRS
from benchmarks.layers import PARAMS
from benchmarks.moe import CASES, QUICK, Case
from benchmarks.step import QUICK as QUICK_STEP
from limoe.config import Params
from limoe.model.presets import find_preset


@dataclass(frozen=True)
class Setting:
    """case: the sparse layer's. pairs: of the contrastive loss. default, large: of whole steps, `steps` of them between two waits
    for the device. trained: of trainings, which have at most `most` steps."""

    case: Case
    pairs: int
    default: Params
    large: Params
    trained: Params
    steps: int
    most: int


def full() -> Setting:
    """The issue's: B/16 at 224 px and params.yaml's own towers for steps; for trainings B/16's width at the pictures' 128 px."""
    preset = find_preset("B/16")
    tower, moe = preset.tower.model_dump(mode="json") | {"text_length": 24}, preset.moe.model_dump(mode="json")
    b16 = (f"model.tower={json.dumps(tower)}", f"model.moe={json.dumps(moe)}", "model.clip.text_depth=12")
    machine = ("machine.workers=12", "machine.cache_mb=8192", "train.threads=8")
    recipe = ("model.tower.image_size=128", "train.batch=512", "train.lr=5.0e-4", "train.color_jitter=0.0")
    return Setting(
        case=next(case for case in CASES if case.device == "cuda"),
        pairs=PAIRS["cuda"],
        default=Params.load(PARAMS),
        large=Params.load(PARAMS, (*b16, f"prepare.tokenizer.vocab_size={preset.vocab_size}")),
        trained=Params.load(PARAMS, (*b16, *recipe, *machine)),
        steps=10,
        most=5000,
    )


def tiny() -> Setting:
    """Shapes of seconds on a processor."""
    params = Params.load(PARAMS, (*QUICK_STEP, "train.log_every=2", "train.threads=1", "machine.device=cpu"))
    return Setting(QUICK, 256, params, params, params, steps=2, most=4)
