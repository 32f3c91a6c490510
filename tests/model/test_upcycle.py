"""Sparse upcycling: the first evaluation of a LIMoE equals that of the dense tower it is made of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from modelkit import EOS, PARAMS, VOCAB, batch, moe, padded_ids, tower

from limoe.config import ModelParams, MoeParams
from limoe.errors import UserError
from limoe.model.io import ModelConfig, build_model, load_model, read_config, save_model
from limoe.model.limoe import Limoe
from limoe.model.router import NoiseKey
from limoe.model.upcycle import upcycle, upcycle_directory, upcycled_config

DENSE = ModelConfig(kind="dense", tower=tower(), vocab_size=VOCAB, eos_id=EOS, init_scale=10.0)


def dense_model(dtype: torch.dtype = torch.float32) -> Limoe:
    """A dense tower with weights, biases and norms away from where they start."""
    torch.manual_seed(0)
    model = build_model(DENSE).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model.eval()


def upcycled(dense: Limoe, params: MoeParams) -> Limoe:
    torch.manual_seed(1)
    model = build_model(upcycled_config(DENSE, params)).to(dense.token.weight.dtype)
    model.load_state_dict(upcycle(dense.state_dict(), model.state_dict(), params))
    return model.eval()


def embeddings(model: Limoe, dtype: torch.dtype) -> list[torch.Tensor]:
    """Of a batch of pairs at once, and of its pictures and captions alone."""
    pairs = batch(8, dtype=dtype)
    with torch.no_grad():
        both = model(pairs)
        return [both.image_BV, both.text_BV, model.encode_image(pairs.images_BCHW), model.encode_text(padded_ids(pairs))]


def assert_equal_evaluation(params: MoeParams, dtype: torch.dtype, tolerance: float) -> None:
    dense = dense_model(dtype)
    for mine, theirs in zip(embeddings(upcycled(dense, params), dtype), embeddings(dense, dtype), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "kernel, dtype, tolerance",
    [
        ("loop", torch.float64, 1e-10),
        ("loop", torch.float32, 1e-5),
        ("slots", torch.float64, 1e-10),
        ("slots", torch.float32, 1e-5),
        ("streamed", torch.float32, 1e-5),
        ("grouped", torch.float32, 1e-5),
    ],
)
@pytest.mark.parametrize("experts, k", [(4, 1), (6, 2), (8, 4), (4, 4)])
def test_every_kernel_and_number_of_experts(kernel, dtype, tolerance, experts, k):
    assert_equal_evaluation(moe(experts=experts, k=k, kernel=kernel), dtype, tolerance)


@pytest.mark.parametrize(
    "router, k, renormalise",
    [
        ("top-k", 2, True),
        ("loss-free", 1, False),
        ("loss-free", 2, False),
        ("loss-free", 4, True),
        ("uniform", 1, False),
        ("uniform", 2, False),
        ("uniform", 2, True),
        ("expert-choice", 1, True),
        ("expert-choice", 2, True),
    ],
)
def test_every_router_that_is_not_refused(router, k, renormalise):
    assert_equal_evaluation(moe(router=router, k=k, experts=6, renormalise=renormalise), torch.float64, 1e-10)


@pytest.mark.parametrize("blocks", ["every-second", "last-1", "last-4", (0, 3)])
def test_every_placement(blocks):
    assert_equal_evaluation(moe(blocks=blocks, k=2, init="identical"), torch.float64, 1e-10)


def test_what_is_copied_and_what_is_scaled():
    dense = dense_model().state_dict()
    for renormalise, factor in ((False, 8 / 2), (True, 1.0)):
        state = upcycled(dense_model(), moe(experts=8, k=2, renormalise=renormalise)).state_dict()
        for expert in range(8):
            mlp, experts = "encoder.blocks.1.mlp.", "encoder.blocks.1.mlp.experts."
            torch.testing.assert_close(state[experts + "w1_EDF"][expert], dense[mlp + "up.weight"].T)
            torch.testing.assert_close(state[experts + "b1_EF"][expert], dense[mlp + "up.bias"])
            torch.testing.assert_close(state[experts + "w2_EFD"][expert], factor * dense[mlp + "down.weight"].T)
            torch.testing.assert_close(state[experts + "b2_ED"][expert], factor * dense[mlp + "down.bias"])
        assert (state["encoder.blocks.1.mlp.router.weight"] == 0).all() == (not renormalise)
        torch.testing.assert_close(state["encoder.blocks.0.mlp.up.weight"], dense["encoder.blocks.0.mlp.up.weight"])


@pytest.mark.parametrize("renormalise", [False, True])
def test_training_can_begin(renormalise):
    """Routers of zeros are no dead end: the loss alone gives them a gradient, and copies of one expert drift apart."""
    params = moe(k=2, renormalise=renormalise, aux_coefficient=0.0)
    model = upcycled(dense_model(), params).train()
    output = model(batch(8), NoiseKey(0, 0))
    (output.image_BV[:, 0].sum() - output.text_BV[:, 1].sum()).backward()
    mlp = model.encoder.blocks[1].mlp
    assert mlp.router.weight.grad.abs().max() > 1e-4
    assert (mlp.experts.w2_EFD.grad[0] - mlp.experts.w2_EFD.grad[1]).abs().max() > 1e-4


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"router": "expert-choice"}, "expert-choice needs model.moe.renormalise = true"),
        ({"noise": 0.0, "aux_weights": {"load": 0.0}}, "needs model.moe.noise > 0"),
        ({"blocks": (9,)}, "block 9 does not exist"),
    ],
)
def test_what_could_not_be_equal_is_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        upcycled_config(DENSE, moe(**changes))


def test_only_a_dense_model_of_the_same_tower_can_be_upcycled():
    with pytest.raises(UserError, match="only a dense model can be upcycled, and this one is limoe"):
        upcycled_config(upcycled_config(DENSE, moe()), moe())
    wider = build_model(upcycled_config(DENSE.model_copy(update={"tower": tower(mlp_ratio=2)}), moe()))
    with pytest.raises(ValueError, match=r"up.weight would be \(64, 16\), must be \(32, 16\): not the same tower"):
        upcycle(dense_model().state_dict(), wider.state_dict(), moe())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dense model directory."""
    (tmp_path / "words.json").write_text('{"a": 1}')
    save_model(tmp_path / "dense", DENSE, dense_model().state_dict(), tmp_path / "words.json", {"image_size": 16})
    return tmp_path / "dense"


def test_a_directory_becomes_a_directory(folder, tmp_path):
    params = moe(k=2, renormalise=True)
    upcycle_directory(folder, tmp_path / "sparse", settings(params), seed=3)
    assert read_config(tmp_path / "sparse") == upcycled_config(DENSE, params)
    mine, theirs = load_model(tmp_path / "sparse"), load_model(folder)
    for one, other in zip(embeddings(mine, torch.float32), embeddings(theirs, torch.float32), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert (tmp_path / "sparse" / "tokenizer.json").read_text() == '{"a": 1}'
    assert json.loads((tmp_path / "sparse" / "preprocess.json").read_text()) == {"image_size": 16}
    upcycle_directory(folder, tmp_path / "again", settings(params), seed=3)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("sparse", "again")]
    assert weights[0] == weights[1]


def settings(experts: MoeParams, **changes) -> ModelParams:
    return ModelParams(tower=DENSE.tower.model_copy(update=changes), moe=experts, clip=PARAMS.model.clip)


def test_another_tower_is_refused(folder, tmp_path):
    with pytest.raises(UserError, match=r"its tower has embed_dim 8, and model.tower.embed_dim is 9: set it to 8"):
        upcycle_directory(folder, tmp_path / "sparse", settings(moe(), embed_dim=9), seed=0)
    assert not (tmp_path / "sparse").exists()


def test_nothing_is_overwritten(folder, tmp_path):
    with pytest.raises(UserError, match="already there"):
        upcycle_directory(folder, tmp_path, settings(moe()), seed=0)
    assert folder.is_dir()
    upcycle_directory(folder, tmp_path / "sparse", settings(moe()), seed=0)
    with pytest.raises(UserError, match="sparse: only a dense model can be upcycled"):
        upcycle_directory(tmp_path / "sparse", tmp_path / "more", settings(moe()), seed=0)
    with pytest.raises(UserError, match="no such file"):
        upcycle_directory(tmp_path / "nowhere", tmp_path / "more", settings(moe()), seed=0)


def test_a_missing_tokenizer_is_told_before_anything_is_made(folder, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in folder.iterdir():
        if file.name != "tokenizer.json":
            (bare / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match=r"tokenizer\.json: no such file"):
        upcycle_directory(bare, tmp_path / "sparse", settings(moe()), seed=0)
    assert not (tmp_path / "sparse").exists()
