"""A malicious pickle in the place of any file of a model directory: every door refuses it in one sentence, and opens nothing.

Checkpoints: tests/train/test_checkpoint.py. Shards: tests/model/test_shards.py.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from evilkit import PICKLERS, pickled
from trainkit import prepare_shapes, recipe

import limoe
from limoe.data.prepared import Prepared
from limoe.errors import UserError
from limoe.evals.suite import open_encoder, provenance
from limoe.model.upcycle import upcycle_directory
from limoe.paths import Paths
from limoe.stages import train

CONFIG, WEIGHTS, TOKENIZER, PREPROCESS = "config.json", "model.safetensors", "tokenizer.json", "preprocess.json"
SENTENCES = {
    CONFIG: r"config\.json: not valid JSON",
    WEIGHTS: r"model\.safetensors: not a safetensors file",
    TOKENIZER: r"tokenizer\.json: not a tokenizer|another tokenizer|its tokenizer is not that of",
    PREPROCESS: r"preprocess\.json: not valid JSON",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A project in which the dense tower has been trained for a step."""
    paths = prepare_shapes(tmp_path_factory.mktemp("trained"))
    train.run(recipe("train.steps=1", "train.warmup=0"), paths, "dense")
    return paths


def load(folder: Path, paths: Paths) -> None:
    limoe.load(folder)


def start(folder: Path, paths: Paths) -> None:
    train.run(recipe(f"train.start_from={folder}"), paths, "dense")


def upcycle(folder: Path, paths: Paths) -> None:
    upcycle_directory(folder, folder.parent / "sparse", recipe("model.moe.k=2", "model.moe.renormalise=true").model, seed=0)


def evaluate(folder: Path, paths: Paths) -> None:
    params = recipe().evaluate
    provenance(Prepared(paths.prepared), folder, params)
    open_encoder(folder, params, torch.device("cpu"))


OPENED = {  # by door: what it opens of a model directory
    load: (CONFIG, WEIGHTS, TOKENIZER, PREPROCESS),
    start: (CONFIG, WEIGHTS, TOKENIZER),
    upcycle: (CONFIG, WEIGHTS, PREPROCESS),
    evaluate: (CONFIG, WEIGHTS, TOKENIZER, PREPROCESS),
}


@pytest.mark.parametrize("how", PICKLERS)
@pytest.mark.parametrize("door,name", [(door, name) for door, names in OPENED.items() for name in names])
def test_a_door_refuses_it(trained, tmp_path, door, name, how):
    folder = shutil.copytree(trained.model("dense"), tmp_path / "model")
    (folder / name).write_bytes(pickled(tmp_path / "harm", how))
    with pytest.raises(UserError, match=SENTENCES[name]) as refused:
        door(folder, trained)
    assert not (tmp_path / "harm").exists()
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "sparse").exists()


@pytest.mark.parametrize("door", [load, upcycle, evaluate])
def test_the_doors_open_what_is_none(trained, tmp_path, door):
    door(shutil.copytree(trained.model("dense"), tmp_path / "model"), trained)
