"""Models by name: the paper's five sizes, and three for a laptop.

The paper's sizes follow LIMoE (arXiv 2206.02770) as far as it is known: docs/presets.md says what is ours. Their learning rates
are those of V-MoE (arXiv 2106.05974). A preset states time and score only where they were measured (README.md, LOG.md).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

import torch

from limoe.config import MoeParams, TowerParams
from limoe.errors import UserError
from limoe.model.limoe import Limoe

PAPER = "paper"
LAPTOP = "laptop"
CORES = "two cores of an AMD EPYC with avx512_bf16, 24 GB"
PAPER_WEIGHTS = {
    "importance": 1.0,
    "load": 1.0,
    "z": 1.0,
    "local_text": 1.0,
    "local_image": 0.0,
    "global_text": 1.0,
    "global_image": 1.0,
}
PAPER_MOE: dict[str, Any] = {
    "experts": 32,
    "k": 1,
    "blocks": "every-second",
    "init": "independent",
    "router": "top-k",
    "capacity_factor": 1.05,
    "priority": "bpr",
    "noise": 1.0,
    "renormalise": False,
    "bias_rate": 0.001,
    "bias_scope": "modality",
    "threshold_decay": 0.99,
    "group_pairs": 256,
    "kernel": "auto",
    "aux_coefficient": 0.04,
    "aux_rule": "average",
    "aux_scope": "group",
    "aux_weights": PAPER_WEIGHTS,
    "tau_text": None,
    "tau_image": None,
    "layers": "mean",
}


@dataclass(frozen=True)
class Preset:
    """A model and its peak learning rate.

    vocab_size: token embeddings. made_for: PAPER or LAPTOP. hardware, time (of one training) and score: as measured, None where
    nobody did.
    """

    name: str
    tower: TowerParams
    moe: MoeParams
    vocab_size: int
    lr: float
    made_for: str
    hardware: str | None = None
    time: str | None = None
    score: str | None = None

    def overlay(self) -> dict[str, Any]:
        """The preset as changes of params.yaml, for `limoe params --overlay`."""
        return {
            "prepare": {"tokenizer": {"vocab_size": self.vocab_size}},
            "model": {"tower": self.tower.model_dump(mode="json"), "moe": self.moe.model_dump(mode="json")},
            "train": {"lr": self.lr},
        }

    def on_meta(self) -> Limoe:
        """The model on torch's meta device: every shape, no memory."""
        with torch.device("meta"):
            return Limoe(self.tower, self.moe, self.vocab_size)


def _paper(name: str, depth: int, width: int, heads: int, lr: float, blocks: str | tuple[int, ...] = "every-second") -> Preset:
    tower = TowerParams(
        image_size=224,
        patch_size=int(name.split("/")[1]),
        text_length=16,
        width=width,
        depth=depth,
        heads=heads,
        mlp_ratio=4,
        embed_dim=width,
    )
    return Preset(name, tower, MoeParams.model_validate(PAPER_MOE | {"blocks": blocks}), 32_000, lr, PAPER)


def _laptop(
    name: str, width: int, depth: int, heads: int, vocab_size: int, lr: float, moe: dict[str, Any], **told: str
) -> Preset:
    tower = TowerParams(
        image_size=48, patch_size=8, text_length=24, width=width, depth=depth, heads=heads, mlp_ratio=4, embed_dim=width
    )
    return Preset(name, tower, MoeParams.model_validate(PAPER_MOE | moe), vocab_size, lr, LAPTOP, hardware=CORES, **told)


BALANCED = PAPER_WEIGHTS | {"importance": 12.0, "load": 12.0}  # places more text on the embedded data (LOG.md)
PRESETS = {
    preset.name: preset
    for preset in (
        _paper("S/32", 8, 512, 8, 1e-3),
        _paper("B/32", 12, 768, 12, 8e-4),
        _paper("B/16", 12, 768, 12, 8e-4),
        _paper("L/16", 24, 1024, 16, 4e-4),
        _paper("H/14", 32, 1280, 16, 3e-4, tuple(range(9, 32, 2))),
        _laptop(
            "laptop",
            width=64,
            depth=4,
            heads=2,
            vocab_size=4096,
            lr=3e-3,
            moe={"experts": 16, "aux_weights": BALANCED},
            time="322 s for 1,700 steps of 256 pairs",
            score="unseen-style top-1 13.2% (10.1 to 16.8), scenes picture to caption R@1 45.6% (43.3 to 47.7); "
            "one training, in float32",
        ),
        _laptop(
            "laptop-wide",
            width=128,
            depth=4,
            heads=4,
            vocab_size=4096,
            lr=2e-3,
            moe={"experts": 8},
            score="after 400 steps of 256 pairs, on validation sets: val-style top-1 10.3%, val-scenes R@1 25.8%; one training",
        ),
        _laptop(
            "debug",
            width=48,
            depth=2,
            heads=2,
            vocab_size=1000,
            lr=3e-3,
            moe={"experts": 4, "group_pairs": 64, "aux_weights": BALANCED},
            time="30 steps of 64 pairs; the whole pipeline takes about two minutes",
        ),
    )
}


def find_preset(name: str) -> Preset:
    """The preset of this name; UserError with the nearest one if there is none."""
    if name in PRESETS:
        return PRESETS[name]
    upper = {known.upper(): known for known in PRESETS}
    close = difflib.get_close_matches(name.upper(), upper, n=1, cutoff=0.5)
    hint = f"did you mean {upper[close[0]]}?" if close else f"there are {', '.join(PRESETS)}"
    raise UserError(f"{name}: no such preset; {hint} (a file of parameters ends in .yaml)")
