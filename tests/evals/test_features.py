"""What probes learn from: every kind of contestant tells what its own projection makes the embedding of."""

from __future__ import annotations

from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F
from evalkit import TableModel, encoder, eval_set, tiny_params
from otherkit import tiny_clip
from torch import Tensor

from limoe.errors import UserError
from limoe.evals.models.huggingface import TwoTowers
from limoe.evals.models.openclip import Told
from limoe.evals.store import Store
from limoe.model.clip import Clip
from limoe.model.limoe import Limoe

TEXT = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}
TIMM = {"image_size": 32, "timm_model_name": "resnet10t", "timm_model_pretrained": False, "timm_proj": "linear"}
COCA = {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8, "output_tokens": True}


def told(model: Any, size: int) -> tuple[Tensor, Tensor]:
    """(features, embeddings) of three pictures."""
    generator = torch.Generator().manual_seed(0)
    images_BCHW = torch.randn(3, 3, size, size, generator=generator)
    with torch.inference_mode():
        features_BF, embeddings_BD = model.image_features(images_BCHW), model.encode_image(images_BCHW)
    assert (features_BF.dtype, embeddings_BD.dtype) == (torch.float32, torch.float32)
    return features_BF.clone(), embeddings_BD.clone()


@pytest.mark.parametrize("experts", [False, True], ids=["dense", "limoe"])
def test_our_towers_project_their_features(experts: bool) -> None:
    params = tiny_params().model
    model = Limoe(params.tower, params.moe if experts else None, vocab_size=64).eval()
    features_BF, embeddings_BD = told(model, params.tower.image_size)
    assert torch.equal(model.image_projection(features_BF), embeddings_BD)


def test_our_clip_projects_its_features() -> None:
    params = tiny_params().model
    model = Clip(params.tower, params.clip, text_width=16, vocab_size=64, eos_id=1).eval()
    features_BF, embeddings_BD = told(model, params.tower.image_size)
    torch.testing.assert_close(features_BF @ model.clip.visual.proj, embeddings_BD)


def test_open_clips_transformers_project_their_features_and_stay_as_they_were() -> None:
    inner = tiny_clip()
    before = inner.visual.proj.clone()
    features_BF, embeddings_BD = told(Told(inner), 16)
    assert features_BF.shape == (3, 16)
    torch.testing.assert_close(features_BF @ before, embeddings_BD)
    assert torch.equal(inner.visual.proj, before)


def test_open_clips_coca_tells_its_pooled_features_alone() -> None:
    inner = open_clip.CoCa(8, {**TEXT, "attn_pooler_heads": 2}, TEXT, COCA).eval()
    features_BF, embeddings_BD = told(Told(inner), 16)
    torch.testing.assert_close(F.normalize(features_BF @ inner.visual.proj, dim=1), F.normalize(embeddings_BD, dim=1))


def test_timms_towers_project_what_their_trunk_gives() -> None:
    inner = open_clip.CustomTextCLIP(8, TIMM, TEXT).eval()
    features_BF, embeddings_BD = told(Told(inner), 32)
    assert features_BF.shape == (3, 512)
    torch.testing.assert_close(inner.visual.head(features_BF), embeddings_BD)


def test_a_resnet_has_no_projection_apart() -> None:
    features_BF, embeddings_BD = told(Told(open_clip.CLIP(8, RESNET, TEXT).eval()), 32)
    assert torch.equal(features_BF, embeddings_BD)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_transformers_models_too(kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision, text = {**sizes, "image_size": 16, "patch_size": 8}, {**sizes, "vocab_size": 64, "max_position_embeddings": 8}
    config, whole = {
        "clip": (transformers.CLIPConfig, transformers.CLIPModel),
        "siglip": (transformers.SiglipConfig, transformers.SiglipModel),
    }[kind]
    inner = whole(config(text_config=text, vision_config=vision, projection_dim=8)).eval()
    features_BF, embeddings_BD = told(TwoTowers(inner), 16)
    expected = inner.visual_projection(features_BF) if kind == "clip" else features_BF
    torch.testing.assert_close(expected, embeddings_BD)


def test_features_come_as_they_are_and_are_kept_apart_from_embeddings(tmp_path: Any) -> None:
    model, data = TableModel(torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.ones(1, 2)), eval_set([["t0"]] * 2)
    for _ in range(2):
        seen = encoder(model)
        seen._store = Store(tmp_path)
        assert seen.features(data).tolist() == [[9.0, 12.0], [0.0, 6.0]]
        torch.testing.assert_close(seen.images(data), torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
    assert model.batches == [2, 2]
    model.images_ND[1] = torch.inf
    with pytest.raises(UserError, match="1 of 2 pictures of val are not finite"):
        encoder(model).features(data)
