"""A CLIP and a SigLIP folder as transformers saves them, opened through transformers; skipped where it is not installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from evalkit import prepared_rows, write_prepared
from otherkit import by_hand, picture
from tokenizers import Tokenizer as Pipeline

from limoe.config import LocalModel
from limoe.errors import UserError
from limoe.evals.models.registry import open_other

transformers = pytest.importorskip("transformers", reason="transformers is in the bench extra: pip install -e '.[bench]'")
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
LENGTH = 12


def save(kind: str, folder: Path) -> Any:
    """An untrained model of this kind with a tokenizer and a preprocessor, saved by transformers; returns the model."""
    write_prepared(folder / "prepared", {"val": prepared_rows("val", 4)})
    pipeline = Pipeline.from_file(str(folder / "prepared" / "tokenizer.json"))
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=pipeline, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    text = {**TOWER, "vocab_size": 128, "max_position_embeddings": LENGTH, "eos_token_id": fast.eos_token_id, "bos_token_id": 0}
    vision = {**TOWER, "image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    if kind == "clip":
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
        model, processor = transformers.CLIPModel(config), transformers.CLIPImageProcessor
    else:
        config = transformers.SiglipConfig(text_config=text | {"projection_size": 16}, vision_config=vision)
        model, processor = transformers.SiglipModel(config), transformers.SiglipImageProcessor
    size = {"shortest_edge": 16} if kind == "clip" else {"height": 16, "width": 16}
    crop = {"height": 16, "width": 16}
    processor(size=size, crop_size=crop, image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.25, 0.3]).save_pretrained(folder)
    fast.save_pretrained(folder)
    model.eval().save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_saved_folder_is_the_model_that_was_saved(kind: str, tmp_path: Path) -> None:
    truth = save(kind, tmp_path)
    other = open_other(LocalModel(path="."), tmp_path, torch.device("cpu"))
    ids = other.tokenize(["name 1", "other 3"])
    assert ids.shape == (2, LENGTH)
    images = other.preprocess(picture(size=(24, 24)))[None]
    with torch.no_grad():
        whole = truth(input_ids=ids, pixel_values=images)
        texts, pictures = other.model.encode_text(ids, normalize=True), other.model.encode_image(images, normalize=True)
        torch.testing.assert_close(texts, whole.text_embeds)
        torch.testing.assert_close(pictures, whole.image_embeds)
        scores = other.model.logit_scale.exp() * texts @ pictures.T + (truth.logit_bias if kind == "siglip" else 0)
    torch.testing.assert_close(scores, whole.logits_per_text)
    assert other.facts.params_total == sum(p.numel() for p in truth.parameters())
    assert other.facts.flops > 0
    if kind == "clip":
        hand = by_hand(_Shape(truth), picture(size=(24, 24)), (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
        torch.testing.assert_close(pictures, torch.nn.functional.normalize(hand, dim=1), rtol=1e-2, atol=1e-2)


def test_pickled_weights_are_not_opened(tmp_path: Path) -> None:
    save("clip", tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "kept")
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be opened as a model"):
        open_other(LocalModel(path="."), tmp_path, torch.device("cpu"))


class _Shape:
    def __init__(self, model: Any) -> None:
        self._model = model

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        vision = self._model.vision_model(pixel_values=images)
        return self._model.visual_projection(vision.pooler_output)
