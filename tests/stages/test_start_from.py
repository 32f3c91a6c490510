"""Training that begins with another stage's result: the balance report's suggestion, or a trained model's weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from trainkit import prepare_shapes, recipe

import limoe
from limoe.cli import main
from limoe.errors import UserError
from limoe.paths import Paths
from limoe.stages import balance, train

STILL = ("train.steps=1", "train.warmup=0", "train.lr=1e-9")  # a step that moves next to nothing
FROM_DENSE = "contestants.limoe.start_from=runs/train/dense/model"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A project in which the dense tower has been trained."""
    paths = prepare_shapes(tmp_path_factory.mktemp("trained"))
    train.run(recipe("train.lr=0.01"), paths, "dense")
    return paths


@pytest.fixture
def paths(trained: Paths, tmp_path: Path) -> Paths:
    shutil.copytree(trained.root, tmp_path / "project")
    return Paths(tmp_path / "project")


def embeddings(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    model, preprocess, tokenizer = limoe.load(folder)
    picture = preprocess(Image.radial_gradient("L").resize((16, 16)))[None]
    with torch.no_grad():
        return model.encode_image(picture), model.encode_text(tokenizer(["a red circle", "a blue square"]))


def assert_same(one: Path, other: Path) -> None:
    for mine, theirs in zip(embeddings(one), embeddings(other), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_limoe_starts_from_the_dense_model(paths):
    train.run(recipe(*STILL, FROM_DENSE), paths, "limoe")
    assert_same(paths.model("limoe"), paths.model("dense"))
    resolved = json.loads((paths.train("limoe") / "params.json").read_text())
    assert resolved["train"]["start_from"] == "runs/train/dense/model"
    assert len(resolved["start"]) == 64


def test_a_model_goes_on(paths):
    before = embeddings(paths.model("dense"))
    shutil.copytree(paths.model("dense"), paths.root / "kept")
    train.run(recipe(*STILL, "train.start_from=kept"), paths, "dense")
    for mine, theirs in zip(embeddings(paths.model("dense")), before, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_other_weights_there_are_another_training(paths, monkeypatch, capsys):
    def ends(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "save_model", ends)  # all steps are done, and the work is not cleared away
    with pytest.raises(KeyboardInterrupt):
        train.run(recipe(*STILL, FROM_DENSE), paths, "limoe")
    with pytest.raises(KeyboardInterrupt):
        train.run(recipe(*STILL, FROM_DENSE), paths, "limoe")
    assert "continuing from step 1 of 1" in capsys.readouterr().out
    (paths.model("dense") / "preprocess.json").write_text("{}")
    with pytest.raises(KeyboardInterrupt):
        train.run(recipe(*STILL, FROM_DENSE), paths, "limoe")
    assert "continuing" not in capsys.readouterr().out


def test_what_cannot_start_it_is_one_sentence(paths):
    with pytest.raises(UserError, match=r"train.start_from: .* cannot start clip: its kind is dense, and here it is clip"):
        train.run(recipe("train.start_from=runs/train/dense/model"), paths, "clip")
    with pytest.raises(UserError, match=r"train.start_from: \S*nowhere is no model directory"):
        train.run(recipe("train.start_from=nowhere"), paths, "dense")


def test_the_command_writes_what_a_training_starts_from(paths, monkeypatch, capsys):
    shutil.copy(Path(__file__).resolve().parents[2] / "params.yaml", paths.root)
    monkeypatch.chdir(paths.root)
    tower = [f"--set=model.tower.{name}={value}" for name, value in recipe().model.tower]
    settings = ["--set=model.moe.experts=4", "--set=model.moe.k=2", "--set=model.moe.renormalise=true", *tower]
    monkeypatch.setattr("sys.argv", ["limoe", "upcycle", "runs/train/dense/model", "sparse", *settings])
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 0
    told = capsys.readouterr().err
    assert "next: limoe train limoe --set=model.moe.experts=4" in told
    assert told.endswith("--set=contestants.limoe.start_from=sparse\n")
    assert_same(paths.root / "sparse", paths.model("dense"))
    elsewhere = paths.root / "params.yaml"
    monkeypatch.setattr("sys.argv", ["limoe", "upcycle", "runs/train/dense/model", "again", f"--params={elsewhere}", *settings])
    with pytest.raises(SystemExit):
        main()
    assert f"next: limoe train limoe --params={elsewhere} --set=" in capsys.readouterr().err
    same = ("model.moe.k=2", "model.moe.renormalise=true", "contestants.limoe.start_from=sparse")
    train.run(recipe(*STILL, *same), paths, "limoe")
    assert_same(paths.model("limoe"), paths.model("dense"))
    with pytest.raises(UserError, match=r"its moe\.k is 2, and here it is 1"):
        train.run(recipe(*STILL, "contestants.limoe.start_from=sparse"), paths, "limoe")


def test_auto_is_what_the_balance_report_suggests(paths):
    asked = ("model.moe.router=auto", *STILL)
    with pytest.raises(UserError, match="run `limoe balance` first"):
        train.run(recipe(*asked), paths, "limoe")
    train.run(recipe(*asked), paths, "dense")  # which has no router
    balance.run(recipe(*asked, "balance.seeds=0"), paths)
    train.run(recipe(*asked), paths, "limoe")
    suggested = json.loads((paths.balance / "report.json").read_text())["suggestion"]
    config = json.loads((paths.model("limoe") / "config.json").read_text())
    assert {name: config["moe"][name] for name in suggested} == suggested
    assert config["moe"]["router"] == "top-k"
    with pytest.raises(UserError, match=r"model.moe.experts was 4, and now it is 8; run `limoe balance` again"):
        train.run(recipe(*asked, "model.moe.experts=8"), paths, "limoe")
