"""Weights in shards: laid out as the hub's own library does it, opened like one file, and never half there."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from evilkit import PICKLERS, pickled
from modelkit import EOS, VOCAB, moe, tower
from safetensors import safe_open

import limoe.model.io
from limoe.errors import UserError
from limoe.model.io import ModelConfig, build_model, load_model, save_model
from limoe.model.shards import INDEX, WHOLE, divide, weights_hash

KB = 1000
CONFIG = ModelConfig(kind="limoe", tower=tower(), moe=moe(), vocab_size=VOCAB, eos_id=EOS, init_scale=10.0)
LAST = r"model-0000(\d)-of-0000\1\.safetensors"


def saved(root, limit=20 * KB):
    """A model directory whose files hold at most `limit` bytes of tensors, and the model."""
    (root / "words.json").write_text("{}")
    torch.manual_seed(0)
    model = build_model(CONFIG)
    save_model(root / "model", CONFIG, model.state_dict(), root / "words.json", {"image_size": 16}, shard_bytes=limit)
    return root / "model", model


@pytest.fixture
def folder(tmp_path):
    return saved(tmp_path)[0]


def shards(folder):
    return sorted(folder.glob("model-*.safetensors"))


def test_shards_hold_every_tensor_once_and_open_as_the_model(tmp_path):
    folder, model = saved(tmp_path)
    names = [path.name for path in shards(folder)]
    assert len(names) > 2
    assert names == [f"model-{number:05}-of-{len(names):05}.safetensors" for number in range(1, len(names) + 1)]
    assert not (folder / WHOLE).exists()
    told = json.loads((folder / INDEX).read_text())
    held = {}
    for path in shards(folder):
        with safe_open(path, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        assert sum(tensor.nbytes for tensor in tensors.values()) <= 20 * KB or len(tensors) == 1
        assert all(told["weight_map"][name] == path.name for name in tensors)
        assert not held.keys() & tensors.keys()
        held |= tensors
    assert held.keys() == told["weight_map"].keys() == model.state_dict().keys()
    assert told["metadata"] == {"total_size": sum(tensor.nbytes for tensor in held.values())}
    again = load_model(folder).state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(again[name], tensor), name


@pytest.mark.parametrize("limit", [17 * KB, 20 * KB, 50 * KB, 1000 * KB])
def test_they_are_divided_as_the_hubs_own_library_divides_them(limit):
    hub = pytest.importorskip("huggingface_hub")
    state = build_model(CONFIG).state_dict()
    theirs = hub.split_torch_state_dict_into_shards(state, max_shard_size=limit)
    assert max(tensor.nbytes for tensor in state.values()) <= limit, "a tensor that is too large they put elsewhere"
    assert divide({name: tensor.nbytes for name, tensor in state.items()}, limit) == {
        name: file for file, names in theirs.filename_to_tensors.items() for name in names
    }


def test_a_limit_is_met_exactly_and_a_larger_tensor_lies_alone():
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    assert divide({"a": 4, "b": 4}, 8) == {"a": WHOLE, "b": WHOLE}
    assert divide({"a": 4, "b": 5}, 8) == {"a": first, "b": second}
    assert divide({"a": 20, "b": 8}, 8) == {"a": first, "b": second}
    assert divide({"a": 20}, 8) == {"a": WHOLE}


def test_a_model_of_five_gigabytes_is_one_file():
    assert set(divide({"a": 4 * 10**9, "b": 10**9}, limoe.model.io.SHARD_BYTES).values()) == {WHOLE}
    assert len(set(divide({"a": 4 * 10**9, "b": 10**9 + 1}, limoe.model.io.SHARD_BYTES).values())) == 2


def test_the_hash_covers_every_shard_and_the_index(folder):
    before = weights_hash(folder)
    assert weights_hash(shutil.copytree(folder, folder.parent / "copy")) == before
    for path in [*shards(folder), folder / INDEX]:
        content = path.read_bytes()
        path.write_bytes(content + b" ")
        assert weights_hash(folder) != before, path.name
        path.write_bytes(content)
    assert weights_hash(folder) == before


def test_a_shard_that_is_missing_or_has_another_name_is_named(folder):
    last = shards(folder)[-1]
    last.rename(folder / "model-last.safetensors")
    for opens in (load_model, weights_hash, limoe.load):
        with pytest.raises(UserError, match=rf"{LAST}: no such file, though model\.safetensors\.index\.json names it$"):
            opens(folder)


def test_a_shard_in_anothers_place_is_refused(folder):
    first, *_, last = shards(folder)
    shutil.copyfile(first, last)
    with pytest.raises(UserError, match=rf"{LAST}: it holds other tensors than model\.safetensors\.index\.json says$"):
        load_model(folder)


@pytest.mark.parametrize("told", ["[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": "../secret.safetensors"}}'])
def test_an_index_that_is_none_is_refused(folder, told):
    (folder / INDEX).write_text(told)
    with pytest.raises(UserError, match=r"index\.json: its weight_map must give each tensor a file like model-00001-of"):
        load_model(folder)


def test_an_index_of_another_model_is_refused(folder):
    told = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps({"weight_map": {name: shards(folder)[0].name for name in told["weight_map"]}}))
    with pytest.raises(UserError, match="it holds other tensors than"):
        load_model(folder)
    values = json.loads((folder / "config.json").read_text())
    values["tower"]["width"] = 32
    (folder / "config.json").write_text(json.dumps(values))
    (folder / INDEX).write_text(json.dumps(told))
    with pytest.raises(UserError, match=r"index\.json: not the weights of the model that config\.json describes"):
        load_model(folder)


def test_what_is_half_written_is_never_seen(tmp_path, monkeypatch):
    folder, _ = saved(tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write, written = limoe.model.io.write_bytes, []

    def full(path, content):
        written.append(path.name)
        if len(written) == 2:
            raise OSError(28, "No space left on device", str(path))
        write(path, content)

    monkeypatch.setattr(limoe.model.io, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        saved(tmp_path, 12 * KB)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    monkeypatch.undo()
    assert (saved(tmp_path, 1000 * KB)[0] / WHOLE).is_file()
    assert not shards(folder), "nothing is left of the shards"


@pytest.mark.parametrize("how", PICKLERS)
@pytest.mark.parametrize("name,sentence", [("shard", "not a safetensors file"), (INDEX, "not valid JSON")])
def test_a_malicious_pickle_in_a_shards_place_is_not_opened(folder, tmp_path, name, sentence, how):
    path = folder / INDEX if name == INDEX else shards(folder)[-1]
    path.write_bytes(pickled(tmp_path / "harm", how))
    with pytest.raises(UserError, match=sentence):
        load_model(folder)
    assert not (tmp_path / "harm").exists()
