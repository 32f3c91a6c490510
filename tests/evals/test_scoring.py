"""Cosines of pictures and captions by models of all kinds, and a set that `prepare` leaves unlike captions out of."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F
from evalkit import prepared_rows, tiny_params, write_model, write_prepared
from otherkit import by_hand, picture, registered, save_forms, tiny_clip
from preparekit import params_with

from limoe.config import LocalModel
from limoe.data.prepared import Prepared
from limoe.data.transforms import Preprocess
from limoe.errors import UserError
from limoe.evals.scoring import OpensScorer
from limoe.model.io import load_model
from limoe.paths import Paths
from limoe.stages import prepare

PICTURES = [picture(), picture((10, 200, 90), (24, 40)), picture((1, 2, 3), (30, 30))]
CAPTIONS = [["a red house", "two dogs"], ["two dogs"], ["a boat", "a red house", "A  Boat"]]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder that open_clip has written, and the model in it."""
    folder = tmp_path_factory.mktemp("forms")
    with registered(folder):
        yield save_forms(tiny_clip(), folder)["folder"], tiny_clip()


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(F.cosine_similarity(one, other))


@torch.no_grad()
def test_scores_of_open_clips_model_are_those_by_hand(clip: tuple[Path, Any]) -> None:
    folder, model = clip
    scores = OpensScorer.of(LocalModel(path=folder.name), folder.parent, "cpu")()(PICTURES, CAPTIONS)
    tokenizer = open_clip.SimpleTokenizer(context_length=12)
    for image, captions, found in zip(PICTURES, CAPTIONS, scores, strict=True):
        seen = by_hand(model, image, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
        wanted = [cosine(seen, model.encode_text(tokenizer([" ".join(text.lower().split())]))) for text in captions]
        assert found == pytest.approx(wanted, abs=1e-5)
    assert scores[2][0] == scores[2][2]  # the same words


def test_the_callers_number_of_threads_is_its_own_again(clip: tuple[Path, Any]) -> None:
    folder, _ = clip
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        OpensScorer.of(LocalModel(path=folder.name), folder.parent, "cpu")()(PICTURES, CAPTIONS)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def test_scores_of_our_model_are_those_of_each_pair_alone(tmp_path: Path) -> None:
    params = tiny_params()
    write_prepared(tmp_path / "prepared", {"val": prepared_rows("val", 4)})
    folder = write_model(tmp_path / "model", tmp_path / "prepared" / "tokenizer.json", params)
    opens = OpensScorer.of(LocalModel(path="model"), tmp_path, "cpu")
    scores = opens()(PICTURES, CAPTIONS)
    model, preprocess = load_model(folder).eval(), Preprocess(params.model.tower.image_size)
    tokenizer = Prepared(tmp_path / "prepared").tokenizer
    for image, captions, found in zip(PICTURES, CAPTIONS, scores, strict=True):
        seen = model.encode_image(preprocess(image)[None])
        wanted = [cosine(seen, model.encode_text(tokenizer([text], params.model.tower.text_length))) for text in captions]
        assert found == pytest.approx(wanted, abs=1e-5)


def test_it_travels_and_notices_other_weights(tmp_path: Path) -> None:
    params = tiny_params()
    write_prepared(tmp_path / "prepared", {"val": prepared_rows("val", 4)})
    write_model(tmp_path / "model", tmp_path / "prepared" / "tokenizer.json", params)
    opens = OpensScorer.of(LocalModel(path="model"), tmp_path, "cpu")
    arrived = pickle.loads(pickle.dumps(opens))
    assert (arrived, hash(arrived)) == (opens, hash(opens))
    assert arrived()(PICTURES, CAPTIONS) == opens()(PICTURES, CAPTIONS)
    write_model(tmp_path / "model", tmp_path / "prepared" / "tokenizer.json", params, seed=1)
    with pytest.raises(UserError, match=r"the model of prepare.clip_score has changed"):
        opens()


def test_prepare_leaves_out_what_the_model_finds_unlike(clip: tuple[Path, Any], tmp_path: Path) -> None:
    chosen = (
        "prepare.sources=[scenes]",
        "prepare.scenes.pictures=shapes",
        "prepare.scenes.train=20",
        "prepare.scenes.val=4",
        "prepare.scenes.test=0",
        "prepare.tokenizer.vocab_size=200",
        "train.mixture={scenes: 1}",
        "machine.prepare_workers=1",
        "machine.device=cpu",
    )
    prepare.run(params_with(*chosen), Paths(tmp_path))
    every = Prepared(tmp_path / "data" / "prepared").table("train").to_pylist()
    (tmp_path / "model").symlink_to(clip[0])
    opens = OpensScorer.of(LocalModel(path="model"), tmp_path, "cpu")
    scores = [score for (score,) in opens()([row["image"] for row in every], [row["captions"] for row in every])]
    least = (sorted(scores)[9] + sorted(scores)[10]) / 2
    prepare.run(params_with(*chosen, f"prepare.clip_score={{model: {{path: model}}, at_least: {least}}}"), Paths(tmp_path))
    prepared = Prepared(tmp_path / "data" / "prepared")
    kept = [row["key"] for row, score in zip(every, scores, strict=True) if score > least]
    assert prepared.table("train")["key"].to_pylist() == kept
    assert prepared.manifest["rejected"]["low-clip-score"] >= 10
    assert prepared.manifest["scorer"] == {"weights": opens.weights}


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    shapes = ("prepare.sources=[scenes]", "prepare.scenes.pictures=shapes", "train.mixture={scenes: 1}")
    params = params_with(*shapes, "prepare.clip_score={model: {path: nowhere}, at_least: 0}")
    with pytest.raises(UserError, match="nowhere: no such file or folder"):
        prepare.run(params, Paths(tmp_path))
