from __future__ import annotations

import json

import pytest
import torch
from evilkit import PICKLERS, pickled
from modelkit import EOS, PARAMS, VOCAB, batch, moe, tower

from limoe.errors import UserError
from limoe.model.io import ModelConfig, build_model, load_model, read_config, save_model


def config(kind: str, **changes) -> ModelConfig:
    extra = {
        "limoe": {"moe": moe()},
        "dense": {},
        "clip": {"clip": PARAMS.model.clip, "text_width": 16},
    }[kind]
    values = {"kind": kind, "tower": tower(), "vocab_size": VOCAB, "eos_id": EOS, "init_scale": 10.0}
    return ModelConfig(**values | extra | changes)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize("kind", ["limoe", "dense", "clip"])
def test_a_saved_model_embeds_as_before(folder, kind):
    torch.manual_seed(0)
    model = build_model(config(kind)).eval()
    save_model(folder / "model", config(kind), model.state_dict(), folder / "tokenizer.json", {"image_size": 16})
    again = load_model(folder / "model")
    assert not again.training
    with torch.no_grad():
        assert torch.equal(again(batch()).image_BV, model(batch()).image_BV)
        assert torch.equal(again(batch()).text_BV, model(batch()).text_BV)
    assert read_config(folder / "model") == config(kind)
    names = sorted(path.name for path in (folder / "model").iterdir())
    assert names == ["config.json", "model.safetensors", "preprocess.json", "tokenizer.json"]


def test_weights_of_another_architecture_are_refused(folder):
    save_model(folder / "model", config("dense"), build_model(config("dense")).state_dict(), folder / "tokenizer.json", {})
    values = json.loads((folder / "model" / "config.json").read_text())
    values["tower"]["width"] = 32
    (folder / "model" / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"model\.safetensors: not the weights"):
        load_model(folder / "model")


@pytest.mark.parametrize("how", PICKLERS)
@pytest.mark.parametrize("name,sentence", [("model.safetensors", "not a safetensors file"), ("config.json", "not valid JSON")])
def test_a_malicious_pickle_in_the_models_place_is_not_opened(folder, name, sentence, how):
    save_model(folder / "model", config("dense"), build_model(config("dense")).state_dict(), folder / "tokenizer.json", {})
    (folder / "model" / name).write_bytes(pickled(folder / "harm", how))
    with pytest.raises(UserError, match=sentence):
        load_model(folder / "model")
    assert not (folder / "harm").exists()


def test_a_missing_model_and_a_wrong_config_are_named(folder):
    with pytest.raises(UserError, match=r"config\.json: no such file"):
        load_model(folder / "nothing")
    (folder / "config.json").write_text(json.dumps(config("dense").model_dump(mode="json") | {"kind": "lime"}))
    with pytest.raises(UserError, match="kind = 'lime' is not allowed"):
        load_model(folder)
    (folder / "config.json").write_text(json.dumps(config("limoe").model_dump(mode="json") | {"moe": None}))
    with pytest.raises(UserError, match="the kind limoe needs moe"):
        load_model(folder)
