"""The train stage in two processes that divide the weights: the model is whole, and that of one process to float32's rounding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from dividekit import stage
from rankkit import together
from safetensors.torch import load_file
from trainkit import prepare_shapes, recipe

from limoe.errors import UserError
from limoe.model.io import load_model
from limoe.paths import Paths
from limoe.stages import train
from limoe.world import ALONE

IN_PARTS = ("machine.processes=2", "machine.expert_parallel=2", "machine.shard_weights=true")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_shapes(tmp_path_factory.mktemp("parts")).root


def exported(root: Path) -> dict[str, torch.Tensor]:
    """The weights of both model directories, which must load."""
    folder = Paths(root).train("limoe")
    for name in ("model", "ema"):
        load_model(folder / name)
    return {f"{name}/{key}": t for name in ("model", "ema") for key, t in load_file(folder / name / "model.safetensors").items()}


def test_the_exported_model_is_whole_and_that_of_one_process(root):
    stage(ALONE, root, ())
    wanted, costs = exported(root), (Paths(root).train("limoe") / "cost.json").read_text()
    together(2, stage, root, IN_PARTS)
    found = exported(root)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=2e-3, msg=lambda text, name=name: f"{name}: {text}")
    assert (Paths(root).train("limoe") / "cost.json").read_text() == costs


def test_owners_must_divide_the_processes_and_the_experts(root):
    for changes in (("machine.expert_parallel=2",), ("machine.processes=3", "machine.expert_parallel=2")):
        with pytest.raises(UserError, match=r"expert_parallel = 2 must divide the number of processes, which is [13]"):
            train.run(recipe(*changes), Paths(root), "limoe")
    with pytest.raises(UserError, match=r"expert_parallel \(3\) must divide model.moe.experts \(4\)"):
        recipe("machine.processes=3", "machine.expert_parallel=3")


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (("machine.expert_parallel=2", "train.micro_batch=auto"), "micro_batch = auto needs machine.expert_parallel = 1"),
        (("machine.shard_weights=true", "contestants.dense.micro_batch=auto"), "and machine.shard_weights = false"),
        (("machine.shard_weights=true", "train.optimizer=muon"), "needs train.optimizer = adamw: muon looks at whole matrices"),
    ],
)
def test_what_parts_cannot_do_is_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        recipe(*changes)
