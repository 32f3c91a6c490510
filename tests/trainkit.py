"""A set of drawn shapes and a recipe of seconds, for tests that train for real."""

from __future__ import annotations

from pathlib import Path

from limoe.config import Params
from limoe.paths import Paths
from limoe.stages import prepare

ROOT = Path(__file__).resolve().parent.parent
OVERRIDES = (
    "machine.tracking=none",
    "prepare.sources=[scenes]",
    "prepare.scenes.pictures=shapes",
    "prepare.scenes.train=64",
    "prepare.scenes.val=8",
    "prepare.scenes.test=8",
    "prepare.scenes.canvas=16",
    "prepare.tokenizer.vocab_size=200",
    "model.tower.image_size=16",
    "model.tower.width=32",
    "model.tower.depth=2",
    "model.tower.text_length=20",
    "model.tower.heads=2",
    "model.tower.embed_dim=8",
    "model.clip.text_depth=2",
    "model.moe.experts=4",
    "model.moe.group_pairs=8",
    "train.mixture={scenes: 1.0}",
    "train.batch=16",
    "train.steps=6",
    "train.warmup=2",
    "train.threads=1",
    "train.checkpoints.every=2",
    "train.log_every=2",
)


def recipe(*overrides: str) -> Params:
    return Params.load(ROOT / "params.yaml", (*OVERRIDES, *overrides))


def prepare_shapes(root: Path) -> Paths:
    """Prepare the set under `root`."""
    paths = Paths(root)
    prepare.run(recipe("machine.prepare_workers=1"), paths)
    return paths
