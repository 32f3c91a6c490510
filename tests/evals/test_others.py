"""Further contestants: a small CLIP in each form that open_clip saves, models of ours, and what is refused and left out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from evalkit import prepared_rows, tiny_params, write_model, write_prepared
from otherkit import NAME, by_hand, picture, registered, save_forms, tiny_clip
from safetensors.torch import save_file

from limoe.config import FetchedModel, LocalModel
from limoe.errors import UserError
from limoe.evals.models import openclip
from limoe.evals.models.counted import pair_flops
from limoe.evals.models.opened import Opened, Unfetchable
from limoe.evals.models.registry import open_other
from limoe.files import sha256_file, write_json
from limoe.model.flops import clip_flops, tower_flops
from limoe.model.io import load_model, read_config

CPU = torch.device("cpu")
CAPTIONS = ["a red house", "two dogs"]


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("forms")
    with registered(folder):
        yield save_forms(tiny_clip(), folder)


def opened(path: Path, **more: Any) -> Opened:
    architecture = NAME if path.is_file() else None
    return open_other(LocalModel(path=str(path), architecture=architecture, **more), Path(), CPU)


@pytest.mark.parametrize("form", ["plain.pt", "training.pt", "plain.safetensors", "folder"])
def test_each_form_is_the_model_that_was_saved(forms: dict[str, Path], form: str) -> None:
    other, truth = opened(forms[form]), tiny_clip()
    with torch.no_grad():
        texts = truth.encode_text(open_clip.SimpleTokenizer(context_length=12)(CAPTIONS))
        torch.testing.assert_close(other.model.encode_text(other.tokenize(CAPTIONS)), texts, rtol=0, atol=0)
        assert torch.equal(other.model.logit_scale, truth.logit_scale)
        seen = other.model.encode_image(other.preprocess(picture())[None])
    mean, std = (
        ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3)) if form == "folder" else (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    torch.testing.assert_close(seen, by_hand(truth, picture(), mean, std), rtol=1e-5, atol=1e-6)


def test_the_same_tensors_have_the_same_hash_whatever_file_they_came_from(forms: dict[str, Path], tmp_path: Path) -> None:
    facts = [opened(path).facts for path in forms.values()]
    assert len({one.weights for one in facts}) == 1
    save_file(tiny_clip(seed=1).state_dict(), tmp_path / "other.safetensors")
    assert opened(tmp_path / "other.safetensors").facts.weights != facts[0].weights


def test_flops_are_those_of_the_closed_form_and_no_budget_is_invented(forms: dict[str, Path]) -> None:
    facts = opened(forms["folder"]).facts
    tokens, width, hidden = 5, 16, 64  # four patches and the class token

    def blocks(length: int) -> int:
        return 2 * (8 * length * width**2 + 4 * length**2 * width + 4 * length * width * hidden)

    assert facts.flops == blocks(tokens) + 2 * 4 * 192 * width + 2 * width * 8 + blocks(12) + 2 * width * 8
    assert facts.params_total == facts.params_active == sum(p.numel() for p in tiny_clip().parameters())
    assert (facts.samples, facts.data, facts.seed) == (None, None, None)
    assert opened(forms["folder"], samples=1e9).facts.samples == 1e9


class Evil:
    """Unpickled, it makes a folder."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("place", ["bare", "state_dict", "folder"])
def test_code_in_a_checkpoints_place_is_refused_and_never_runs(forms: dict[str, Path], place: str, tmp_path: Path) -> None:
    evil, trace = Evil(tmp_path / "ran"), tmp_path / "ran"
    path = tmp_path / ("open_clip_pytorch_model.bin" if place == "folder" else "evil.pt")
    torch.save({"state_dict": evil} if place == "state_dict" else evil, path)
    (tmp_path / "open_clip_config.json").write_bytes((forms["folder"] / "open_clip_config.json").read_bytes())
    with pytest.raises(UserError, match="pickled code is never run"):
        opened(tmp_path if place == "folder" else path)
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists(), "the code would have run"


def test_what_is_no_model_is_refused_in_one_sentence(forms: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_bytes((forms["folder"] / "open_clip_config.json").read_bytes())
    with pytest.raises(UserError, match="cannot be opened as a model"):  # open_clip would draw random weights
        opened(tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / "wrong.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\x08")
    for name in ("wrong.safetensors", "cut.safetensors"):
        with pytest.raises(UserError, match=f"{name}: cannot be opened as a model") as caught:
            opened(tmp_path / name)
        assert "\n" not in str(caught.value)
    for other, sentence in (
        (LocalModel(path="nowhere"), "no such file or folder"),
        (LocalModel(path="wrong.safetensors"), "needs the name of its architecture"),
        (LocalModel(path="wrong.safetensors", architecture="ViT-B-23"), "no architecture of open_clip's"),
        (LocalModel(path=".", architecture=NAME), "a folder says itself"),
    ):
        with pytest.raises(UserError, match=sentence):
            open_other(other, tmp_path, CPU)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no model that is known"):
        opened(tmp_path / "empty")
    write_json(tmp_path / "empty" / "config.json", {"model_type": "bert"})
    with pytest.raises(UserError, match="'bert'; of transformers' models clip and siglip are read"):
        opened(tmp_path / "empty")


def test_a_tag_is_checked_before_anything_is_fetched() -> None:
    with pytest.raises(UserError, match="open_clip has no weights 'nowhere' of ViT-B-32; it has openai, ") as caught:
        open_other(FetchedModel(architecture="ViT-B-32", tag="nowhere"), Path(), CPU)
    assert not isinstance(caught.value, Unfetchable)


def test_weights_that_cannot_be_fetched_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(cfg: dict[str, Any]) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("open_clip.pretrained.download_pretrained", unreachable)
    with pytest.raises(Unfetchable, match=r"laion2b_s34b_b79k of ViT-B-32 .* could not be fetched: no route to host"):
        open_other(FetchedModel(architecture="ViT-B-32", tag="laion2b_s34b_b79k"), Path(), CPU)


def test_weights_that_were_fetched_are_opened_and_the_tag_tells_the_samples(
    forms: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, NAME, {"pairs_s34b_b79k": {"file": str(forms["plain.pt"])}})
    other = open_other(FetchedModel(architecture=NAME, tag="pairs_s34b_b79k"), Path(), CPU)
    assert other.facts.samples == 34e9
    assert other.facts.weights == opened(forms["plain.pt"]).facts.weights


@pytest.mark.parametrize(
    "tag,samples",
    [("laion2b_s34b_b79k", 34e9), ("datacomp_s_s13m_b4k", 13e6), ("openai", None), ("laion400m_e32", None), ("s12.8b", 12.8e9)],
)
def test_samples_of_a_tag(tag: str, samples: float | None) -> None:
    assert openclip.tag_samples(tag) == samples


@pytest.mark.parametrize("kind", ["limoe", "clip"])
def test_a_model_of_ours_from_elsewhere(kind: str, tmp_path: Path) -> None:
    params = tiny_params()
    write_prepared(tmp_path / "prepared", {"val": prepared_rows("val", 4)})
    training = tmp_path / "training"
    folder = write_model(training / "model", tmp_path / "prepared" / "tokenizer.json", params, kind)
    bare = opened(folder)
    config = read_config(folder)
    assert bare.facts.weights == sha256_file(folder / "model.safetensors")
    expected = clip_flops(config.tower, 16, config.clip.text_depth) if config.clip else tower_flops(config.tower, [8], config.moe)
    assert (bare.facts.flops, bare.facts.samples, bare.facts.seed) == (expected, None, None)
    with torch.no_grad():
        ids = bare.tokenize(["name 1"])
        assert torch.equal(bare.model.encode_text(ids), load_model(folder).encode_text(ids))
    write_json(training / "cost.json", {"flops_per_pair_forward": 123.0, "samples_seen": 640})
    write_json(training / "params.json", {"data": "d" * 64, "train": {"seed": 7}})
    told = opened(training).facts
    assert (told.flops, told.samples, told.data, told.seed) == (123.0, 640, "d" * 64, 7)


def test_counted_flops_of_our_clip_are_those_of_its_closed_form(tmp_path: Path) -> None:
    params = tiny_params()
    write_prepared(tmp_path / "prepared", {"val": prepared_rows("val", 4)})
    folder = write_model(tmp_path / "model", tmp_path / "prepared" / "tokenizer.json", params, "clip")
    other, config = opened(folder), read_config(folder)
    ids, image = other.tokenize(["name 1"])[0], other.preprocess(picture())
    assert config.clip is not None
    assert pair_flops(other.model, image, ids) == clip_flops(config.tower, 16, config.clip.text_depth)


def test_a_transformers_folder_without_the_package_is_one_sentence(tmp_path: Path) -> None:
    try:
        import transformers  # noqa: F401
    except ModuleNotFoundError:
        write_json(tmp_path / "config.json", {"model_type": "siglip"})
        with pytest.raises(UserError, match="which is not installed: pip install"):
            opened(tmp_path)
    else:
        pytest.skip("transformers is installed: tests/evals/test_huggingface.py opens a real folder")
