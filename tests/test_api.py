"""`limoe.load`: odd files get one sentence that names one of them, and odd inputs a result or a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from modelkit import PARAMS, moe, tower
from PIL import Image

import limoe
from limoe.data.tokenizer import Tokenizer
from limoe.data.transforms import Preprocess
from limoe.errors import UserError
from limoe.model.io import ModelConfig, build_model, save_model

KINDS: dict[str, dict[str, Any]] = {
    "limoe": {"moe": moe()},
    "dense": {},
    "clip": {"clip": PARAMS.model.clip, "text_width": 16},
}
FILES = ("config.json", "preprocess.json", "tokenizer.json")
WIDTH, EMBED_DIM = 16, 8  # of modelkit's tower
SIZES = st.sampled_from([-(2**40), -1, 0, 1, 2, 3, 7, 1000, 10**6, 2**40, 10**30])
VALUES = st.recursive(
    st.none() | st.booleans() | SIZES | st.floats() | st.text(max_size=3) | st.sampled_from(["limoe", "dense", "clip", "last-9"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model directory of each kind."""
    root = tmp_path_factory.mktemp("models")
    tokenizer = Tokenizer.train(["a cat and a dog", "a red square"], "bpe", 60)
    tokenizer.save(root / "tokenizer.json")
    for kind, its in KINDS.items():
        config = ModelConfig(kind=kind, tower=tower(), vocab_size=tokenizer.vocab_size, eos_id=1, init_scale=10.0, **its)
        weights = build_model(config).state_dict()
        save_model(root / kind, config, weights, root / "tokenizer.json", Preprocess(16).to_dict())
    return {kind: root / kind for kind in KINDS}


@pytest.fixture
def written(request: pytest.FixtureRequest) -> Any:
    """Gives a file another text until the test ends."""

    def write(path: Path, text: str) -> None:
        before = path.read_bytes()
        request.addfinalizer(lambda: path.write_bytes(before))
        path.write_text(text)

    return write


@torch.no_grad()
def refusal(folder: Path) -> str | None:
    """Why `limoe.load` refuses `folder`; None if it does not, and what it gives works."""
    try:
        model, preprocess, tokenizer = limoe.load(folder)
    except UserError as error:
        return str(error)
    image, texts = preprocess(Image.new("RGB", (20, 30))), tokenizer(["a cat", "Ж" * 99])
    found = torch.cat([model.encode_image(image[None]), model.encode_text(texts)])
    assert found.shape == (3, EMBED_DIM)
    assert found.isfinite().all()
    return None


def changed(told: Any, how: str, key: str, value: Any) -> str:
    """The JSON `told` with another value at the dotted `key`, or without it."""
    *outer, last = key.split(".")
    container = told
    for one in outer:
        container = container[one]
    if how == "without":
        del container[last]
    else:
        container[last] = value
    return json.dumps(told)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("text", ["null", "[]", "3", '"model"', "{}", "[" * 100_000, "9" * 5_000, "", "\ud7ff{"])
def test_a_file_of_another_form_is_named(folders: dict[str, Path], written: Any, name: str, text: str) -> None:
    written(folders["limoe"] / name, text)
    with pytest.raises(UserError) as refused:
        limoe.load(folders["limoe"])
    assert str(refused.value).startswith(f"{folders['limoe'] / name}: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "kind, name, how, key, value, sentence",
    [
        ("limoe", "config.json", "with", "vocab_size", -1, "config.json: vocab_size = -1 is not allowed"),
        ("limoe", "config.json", "with", "init_scale", -5, "config.json: init_scale = -5 is not allowed"),
        ("limoe", "config.json", "with", "init_scale", 0, "config.json: init_scale = 0 is not allowed"),
        ("limoe", "config.json", "with", "widht", 3, "config.json: unknown key widht"),
        ("limoe", "config.json", "without", "moe", None, "config.json: the kind limoe needs moe"),
        ("limoe", "config.json", "with", "moe.blocks", [9], "config.json: block 9 does not exist"),
        ("clip", "config.json", "without", "clip", None, "config.json: the kind clip needs clip and text_width"),
        ("clip", "config.json", "with", "text_width", 0, "config.json: text_width = 0 is not allowed"),
        ("clip", "config.json", "with", "text_width", 15, "config.json: text_width (15) must be a multiple of heads (2)"),
        ("clip", "config.json", "with", "eos_id", 60_000, "config.json: eos_id (60000) must be below vocab_size"),
        ("dense", "config.json", "with", "tower.depth", 10**9, "not the weights of the model that config.json describes"),
        ("clip", "config.json", "with", "clip.text_depth", 10**9, "not the weights of the model that config.json describes"),
        ("dense", "config.json", "with", "tower.mlp_ratio", 1e300, "not the weights of the model that config.json describes"),
        ("clip", "config.json", "with", "tower.image_size", 8 * 10**6, "not the weights of the model that config.json describes"),
        ("limoe", "preprocess.json", "with", "image_size", 10**6, "preprocess.json: its image_size is 1000000, and"),
        ("limoe", "preprocess.json", "with", "image_size", -16, "preprocess.json: no preprocessing that this version knows"),
        ("limoe", "preprocess.json", "with", "image_size", True, "preprocess.json: no preprocessing that this version knows"),
        ("limoe", "preprocess.json", "without", "mean", None, "preprocess.json: no preprocessing that this version knows"),
        ("limoe", "tokenizer.json", "with", "model.vocab.a", 999, "tokenizer.json: the ids of its"),
        ("limoe", "tokenizer.json", "with", "model.unk_token", "?", "tokenizer.json: not a tokenizer"),
        ("limoe", "tokenizer.json", "with", "model.continuing_subword_prefix", "long", "tokenizer.json: not a tokenizer"),
        ("limoe", "tokenizer.json", "with", "model.vocab.new", 60, "tokenizer.json: it has"),
    ],
)
def test_values_that_cannot_be_are_named(
    folders: dict[str, Path], written: Any, kind: str, name: str, how: str, key: str, value: Any, sentence: str
) -> None:
    path = folders[kind] / name
    told = json.loads(path.read_text())
    if key == "model.vocab.new":
        value = len(told["model"]["vocab"])
    written(path, changed(told, how, key, value))
    with pytest.raises(UserError) as refused:
        limoe.load(folders[kind])
    assert sentence in str(refused.value)
    assert str(folders[kind]) in str(refused.value)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) below a JSON value."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [(value, key) for key in keys] + [place for key in keys for place in places(value[key])]


@settings(deadline=None, max_examples=150, derandomize=True)
@given(data=st.data())
def test_files_of_odd_values_load_and_work_or_are_named(data: st.DataObject, folders: dict[str, Path]) -> None:
    folder, name = folders[data.draw(st.sampled_from(list(KINDS)))], data.draw(st.sampled_from(FILES))
    path = folder / name
    before = path.read_text()
    told = json.loads(before)
    container, key = data.draw(st.sampled_from(places(told)))
    if data.draw(st.booleans()):
        container[key] = data.draw(VALUES)
    else:
        del container[key]
    path.write_text(json.dumps(told))
    try:
        refused = refusal(folder)
    finally:
        path.write_text(before)
    assert refused is None or (refused.startswith(f"{folder}/") and "\n" not in refused)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalize", [False, True])
def test_no_pictures_and_no_texts_have_no_embeddings(folders: dict[str, Path], kind: str, normalize: bool) -> None:
    model, _, tokenizer = limoe.load(folders[kind])
    images = torch.empty(0, 3, 16, 16)
    for found in (model.encode_image(images, normalize=normalize), model.encode_text(tokenizer([]), normalize=normalize)):
        assert (found.shape, found.dtype) == ((0, EMBED_DIM), torch.float32)
    assert model.image_features(images).shape == (0, WIDTH)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_text_is_a_text(folders: dict[str, Path], kind: str) -> None:
    model, _, tokenizer = limoe.load(folders[kind])
    assert model.encode_text(tokenizer("")).isfinite().all()
    assert torch.equal(tokenizer(""), tokenizer(["  "]))


@pytest.mark.parametrize(
    "texts, sentence",
    [
        (None, "text 0 is None"),
        (5, "text 0 is 5"),
        (b"a cat", "text 0 is b'a cat'"),
        (["a cat", None], "text 1 is None"),
        ([("a", "cat")], r"text 0 is \('a', 'cat'\)"),
        ([["a", "cat"]], r"text 0 is \['a', 'cat'\]"),
        ([float("nan")], "text 0 is nan"),
    ],
)
def test_what_is_no_text_is_named(folders: dict[str, Path], texts: Any, sentence: str) -> None:
    tokenizer = limoe.load(folders["dense"]).tokenizer
    with pytest.raises(UserError, match=sentence + ", which is no str: a text or a list of texts is wanted"):
        tokenizer(texts)


def test_texts_may_come_in_any_order_that_can_be_gone_through(folders: dict[str, Path]) -> None:
    tokenizer = limoe.load(folders["dense"]).tokenizer
    wanted = tokenizer(["a cat", "a dog"])
    assert torch.equal(tokenizer(("a cat", "a dog")), wanted)
    assert torch.equal(tokenizer(text for text in ("a cat", "a dog")), wanted)


@pytest.mark.parametrize("image", ["cat.png", None, [1, 2]])
def test_what_is_no_picture_is_refused_in_one_sentence(folders: dict[str, Path], image: Any) -> None:
    preprocess = limoe.load(folders["dense"]).preprocess
    with pytest.raises(UserError, match="is no picture: a PIL image or the bytes of a file are wanted"):
        preprocess(image)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["limoe", "dense"])
@pytest.mark.parametrize("ids", [[[0, 0]], [[5, 1], [0, 0]]])
def test_a_row_of_padding_is_no_caption(folders: dict[str, Path], kind: str, ids: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="a row of padding alone is no caption"):
        limoe.load(folders[kind]).model.encode_text(torch.tensor(ids))
