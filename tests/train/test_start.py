"""Starting from a model directory: what may start what, and every reason why not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from modelkit import EOS, VOCAB, moe, tower

from limoe.config import ClipParams
from limoe.errors import UserError
from limoe.model.io import ModelConfig, build_model, save_model
from limoe.train.start import Start, directory_hash

COMMON = {"tower": tower(), "vocab_size": VOCAB, "eos_id": EOS, "init_scale": 10.0}
DENSE = ModelConfig(kind="dense", **COMMON)
SPARSE = ModelConfig(kind="limoe", moe=moe(), **COMMON)
CLIP = ModelConfig(kind="clip", clip=ClipParams(text_depth=1), text_width=8, **COMMON)


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """The tokenizer of the prepared set."""
    (tmp_path / "prepared").mkdir()
    path = tmp_path / "prepared" / "tokenizer.json"
    path.write_text('{"a": 1}')
    return path


@pytest.fixture
def saved(tmp_path: Path, tokenizer: Path):
    """Save a model of this config, its weights moved from where they start, and return its folder."""

    def save(config: ModelConfig) -> Path:
        torch.manual_seed(5)
        save_model(tmp_path / "model", config, build_model(config).state_dict(), tokenizer, {})
        return tmp_path / "model"

    return save


def weights_after(start: Start, config: ModelConfig) -> dict[str, torch.Tensor]:
    torch.manual_seed(6)
    model = build_model(config)
    start.load_into(model)
    return model.state_dict()


@pytest.mark.parametrize("config", [DENSE, SPARSE, CLIP], ids=lambda config: config.kind)
def test_the_same_kind_goes_on(saved, tokenizer, config):
    weights = weights_after(Start.of(saved(config), config, tokenizer), config)
    torch.manual_seed(5)
    for name, tensor in build_model(config).state_dict().items():
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=0)


def test_a_dense_model_starts_limoe_upcycled(saved, tokenizer):
    weights = weights_after(Start.of(saved(DENSE), SPARSE, tokenizer), SPARSE)
    torch.manual_seed(5)
    dense = build_model(DENSE).state_dict()
    torch.testing.assert_close(weights["encoder.blocks.0.mlp.up.weight"], dense["encoder.blocks.0.mlp.up.weight"])
    down = 4.0 * dense["encoder.blocks.1.mlp.down.weight"].T  # E / K
    torch.testing.assert_close(weights["encoder.blocks.1.mlp.experts.w2_EFD"], down.expand(4, -1, -1))
    assert weights["encoder.blocks.1.mlp.router.weight"].abs().max() == 0


def test_half_a_model_directory_is_refused(saved, tokenizer):
    folder = saved(DENSE)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"has no tokenizer\.json, and so is no whole model directory"):
        Start.of(folder, DENSE, tokenizer)


def test_what_belongs_to_the_run_may_differ(saved, tokenizer):
    changed = SPARSE.model_copy(
        update={"moe": moe(noise=2.0, capacity_factor=2.0, tau_text=1.0, blocks=(1, 3)), "init_scale": 5.0}
    )
    Start.of(saved(SPARSE), changed, tokenizer)


@pytest.mark.parametrize("there, here, bias", [(None, -10.0, -10.0), (-3.0, -10.0, -3.0), (-3.0, None, None)])
def test_the_bias_of_the_sigmoid_loss_comes_and_goes(saved, tokenizer, there, here, bias):
    start = Start.of(saved(DENSE.model_copy(update={"init_bias": there})), SPARSE, tokenizer)
    weights = weights_after(start, SPARSE.model_copy(update={"init_bias": here}))
    assert (weights["logit_bias"].item() if "logit_bias" in weights else None) == bias


@pytest.mark.parametrize(
    "there, here, sentence",
    [
        (SPARSE, DENSE, "cannot start dense: its kind is limoe, and here it is dense"),
        (CLIP, SPARSE, "cannot start limoe: its kind is clip, and here it is limoe"),
        (DENSE, CLIP, "cannot start clip: its kind is dense, and here it is clip"),
        (DENSE, SPARSE.model_copy(update={"tower": tower(heads=4)}), "its tower.heads is 2, and here it is 4"),
        (DENSE, SPARSE.model_copy(update={"vocab_size": 51}), "its vocab_size is 50, and here it is 51"),
        (SPARSE, SPARSE.model_copy(update={"moe": moe(experts=8)}), "its moe.experts is 4, and here it is 8"),
        (SPARSE, SPARSE.model_copy(update={"moe": moe(k=2)}), "its moe.k is 1, and here it is 2"),
        (SPARSE, SPARSE.model_copy(update={"moe": moe(blocks="last-1")}), r"its moe.blocks is \[1, 3\], and here it is \[3\]"),
        (CLIP, CLIP.model_copy(update={"text_width": 16}), "its text_width is 8, and here it is 16"),
        (DENSE, SPARSE.model_copy(update={"moe": moe(router="expert-choice")}), "expert-choice needs model.moe.renormalise"),
    ],
)
def test_what_does_not_fit_is_told_by_name(saved, tokenizer, there, here, sentence):
    with pytest.raises(UserError, match=sentence):
        Start.of(saved(there), here, tokenizer)


def test_another_tokenizer_is_refused(saved, tokenizer):
    folder = saved(DENSE)
    tokenizer.write_text('{"b": 1}')
    with pytest.raises(UserError, match="has another tokenizer"):
        Start.of(folder, DENSE, tokenizer)


def test_no_model_directory_is_refused(tmp_path, tokenizer):
    with pytest.raises(UserError, match=r"train.start_from: \S*nowhere is no model directory"):
        Start.of(tmp_path / "nowhere", DENSE, tokenizer)


def test_the_hash_is_of_all_files(saved):
    folder = saved(DENSE)
    before = directory_hash(folder)
    assert directory_hash(folder) == before
    (folder / "preprocess.json").write_text("{} ")
    assert directory_hash(folder) != before
