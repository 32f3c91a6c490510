"""A world of sixteen patterns with names, small enough that a recipe thrives or fails on it within a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from modelkit import EOS, PARAMS, VOCAB, moe, tower

from limoe.model.limoe import Limoe
from limoe.model.router import Routing
from limoe.model.tokens import Layout, PairBatch
from limoe.train.loop import Trainer
from limoe.train.step import ContrastiveTask

KINDS, NOISE = 16, 0.5
RECIPE = {
    "steps": 60,
    "batch": 16,
    "lr": 0.01,
    "warmup": 10,
    "log_every": 5,
    "checkpoints": PARAMS.train.checkpoints.model_dump() | {"every": 20},
    "threads": 1,
    "health": PARAMS.train.health.model_dump() | {"window": 10, "grace": 0.5},
}
MOE = {"experts": 8, "group_pairs": 16}


class World:
    """Batches of one noisy picture of each pattern, with its name of two tokens; like a loader, named by their number."""

    def __init__(self, seed: int = 0) -> None:
        self.seed, self.number = seed, 0
        generator = torch.Generator().manual_seed(99)
        self.patterns_BCHW = torch.randn(KINDS, 3, 16, 16, generator=generator)
        self.names_BL = torch.stack([torch.arange(KINDS) % 4 + 2, torch.arange(KINDS) // 4 + 6, torch.full((KINDS,), EOS)], dim=1)

    def __next__(self) -> PairBatch:
        generator = torch.Generator().manual_seed(self.seed * 10_000 + self.number)
        order_B = torch.randperm(KINDS, generator=generator)
        noise_BCHW = NOISE * torch.randn(self.patterns_BCHW.shape, generator=generator)
        keys = tuple(f"{self.number}-{kind}" for kind in order_B.tolist())
        self.number += 1
        lengths_B = torch.full((KINDS,), self.names_BL.shape[1])
        return PairBatch(self.patterns_BCHW[order_B] + noise_BCHW, self.names_BL[order_B].flatten(), lengths_B, keys)

    def state_dict(self) -> dict[str, Any]:
        return {"number": self.number}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.number = state["number"]


def training(folder: Path, seed: int = 0, loader: Any = None, health: Any = None, dense: bool = False, **changes: Any) -> Trainer:
    """A training in that world. changes: of `train`; those that begin with moe_ of the experts; embed_dim of the tower."""
    experts = {name[4:]: changes.pop(name) for name in list(changes) if name.startswith("moe_")}
    shape = tower(depth=2, embed_dim=changes.pop("embed_dim", 8))
    limits = RECIPE["health"] | (health or {})
    train = type(PARAMS.train).model_validate(PARAMS.train.model_dump() | RECIPE | {"seed": seed, "health": limits} | changes)
    settings = None if dense else moe(**(MOE | experts))
    torch.manual_seed(seed)
    model = Limoe(
        shape,
        settings,
        VOCAB,
        init_scale=train.init_scale,
        init_bias=train.init_bias if train.loss == "sigmoid" else None,
    )
    task = ContrastiveTask(model, settings, train, torch.float32)
    return Trainer(task, loader or World(seed), train, folder, lambda _: None, lambda _: None).resume()


def step_of(expert: list[int], placed: list[bool]) -> tuple[Routing, Layout]:
    """A step's routing among three experts: two pairs of one patch, captions of 1 and 2 tokens, two rows of padding."""
    layout = Layout.of(2, 1, torch.tensor([1, 2]), torch.device("cpu"), text_shape=(5, 1))
    probs = torch.full((7, 3), 0.2)
    probs[torch.arange(7), torch.tensor(expert)] = 0.6
    chosen = torch.tensor(expert)[:, None]
    fits, asked = torch.tensor(placed)[:, None], layout.real_T[:, None]
    return Routing(probs.log(), probs.log(), probs, chosen, probs.gather(1, chosen), asked, fits, chosen, None, 0.0), layout
