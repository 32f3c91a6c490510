"""The sweep's objective, against a slow version in numpy; it never looks at a test set, and leaves the model as it was."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from evalkit import prepared_rows, tiny_params, write_prepared

from limoe.config import SELECTION_SPLITS
from limoe.data.prepared import Prepared
from limoe.data.schema import TEST_SPLITS
from limoe.data.transforms import Preprocess
from limoe.errors import UserError
from limoe.evals.validation import Validation
from limoe.losses.contrastive import softmax_contrastive
from limoe.model.io import build_model
from limoe.train.contestants import model_config

CPU = torch.device("cpu")
PARAMS = tiny_params(
    "train.mixture={emoji: 1.0}", "train.select_without={emoji: []}", "model.clip.text_depth=2", "model.tower.width=32"
)
TOWER, TRAIN = PARAMS.model.tower, PARAMS.train


def with_column(table: pa.Table, name: str, values: list) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.schema.field(place), pa.array(values, table.schema.field(place).type))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Prepared:
    """val: 11 labelled pictures, of which two share a caption that differs in case alone. val-scenes: 5 without labels."""
    val = prepared_rows("val", 11)
    captions = [[f"name {min(number, 9)}" if number != 10 else "NAME 9", "other"] for number in range(11)]
    val = with_column(val, "captions", captions)
    val = with_column(val, "label", [texts[0] for texts in captions])
    scenes = prepared_rows("val-scenes", 5, labels=False)
    scenes = with_column(scenes, "key", [f"scene/{number}" for number in range(5)])
    splits = {
        "train": prepared_rows("train", 4),
        "val": val,
        "val-scenes": scenes,
        "unseen-style": prepared_rows("unseen-style", 3),
    }
    root = write_prepared(tmp_path_factory.mktemp("validation") / "prepared", splits)
    (root / "unseen-style-00000.parquet").write_bytes(b"poison")
    return Prepared(root)


def a_model(prepared: Prepared, kind: str = "limoe", **changes: float):
    torch.manual_seed(3)
    return build_model(model_config(PARAMS, kind, prepared, [4] * 10).model_copy(update=changes))


def embed(model, prepared: Prepared, split: str, batch: int, limit: int = 10**9):
    """(pictures, captions, their texts, labels) one by one, in the order of the hash of the keys, whole batches only."""
    rows = sorted(prepared.table(split).to_pylist(), key=lambda row: hashlib.sha256(row["key"].encode()).hexdigest())[:limit]
    rows = rows[: len(rows) // batch * batch] or rows
    look, model = Preprocess(TOWER.image_size), model.eval()
    with torch.no_grad():
        pictures = [model.encode_image(look(row["image"])[None])[0].numpy() for row in rows]
        texts = [row["captions"][0].lower() for row in rows]
        captions = [model.encode_text(prepared.tokenizer([text], TOWER.text_length))[0].numpy() for text in texts]
    one = [np.stack(vectors).astype(np.float64) for vectors in (pictures, captions)]
    return *(x / np.linalg.norm(x, axis=1, keepdims=True) for x in one), texts, [row["label"] for row in rows]


def slow_loss(pictures, captions, texts, scale: float) -> float:
    """Row by row and column by column: cross entropy against a target that is spread over equal captions."""
    logits = scale * pictures @ captions.T
    total = 0.0
    for matrix in (logits, logits.T):
        for i, row in enumerate(matrix):
            log_p = row - math.log(sum(math.exp(z) for z in row))
            mine = [j for j, text in enumerate(texts) if text == texts[i]]
            total -= sum(log_p[j] for j in mine) / len(mine)
    return total / (2 * len(logits))


@pytest.mark.parametrize("kind", ["limoe", "dense", "clip"])
def test_as_the_slow_version(prepared, kind):
    model = a_model(prepared, kind, init_scale=14.0)
    batch = 4
    found = Validation(prepared, TOWER, TRAIN, batch=batch).run(model, CPU, torch.float32)
    expected = {}
    for split in ("val", "val-scenes"):
        pictures, captions, texts, labels = embed(model, prepared, split, batch)
        parts = [slice(start, start + batch) for start in range(0, len(texts), batch)]
        losses = [slow_loss(pictures[part], captions[part], texts[part], 14.0) for part in parts]
        expected[f"loss/{split}"] = sum(losses) / len(losses)
        if split == "val":
            names = sorted({label.lower() for label in prepared.table("val")["label"].to_pylist()})
            with torch.no_grad():
                classes = model.encode_text(prepared.tokenizer(names, TOWER.text_length), normalize=True).double().numpy()
            best = (pictures @ classes.T).argmax(1)
            expected["top1/val"] = np.mean([names[c] == label.lower() for c, label in zip(best, labels, strict=True)])
        else:
            cosines, own = pictures @ captions.T, np.arange(len(texts))
            expected["r1/val-scenes"] = ((cosines.argmax(1) == own).mean() + (cosines.argmax(0) == own).mean()) / 2
    expected["loss"] = (expected["loss/val"] + expected["loss/val-scenes"]) / 2
    assert found == pytest.approx(expected, abs=2e-5)


def test_what_is_measured(prepared):
    """11 pictures in batches of 4: 8; 5: one batch. A split smaller than a batch is used whole; a limit cuts first."""
    assert Validation(prepared, TOWER, TRAIN, batch=4).counts == {"val": 8, "val-scenes": 4}
    assert Validation(prepared, TOWER, TRAIN).counts == {"val": 11, "val-scenes": 5}
    assert Validation(prepared, TOWER, TRAIN, batch=3, limit=7).counts == {"val": 6, "val-scenes": 3}


def test_embeddings_that_know_nothing_cost_the_logarithm_of_the_batch(prepared):
    model = a_model(prepared, "dense")
    with torch.no_grad():
        model.logit_scale.fill_(-30.0)
    scores = Validation(prepared, TOWER, TRAIN, batch=4).run(model, CPU, torch.float32)
    assert scores["loss/val-scenes"] == pytest.approx(math.log(4), abs=1e-5)


def test_equal_captions_share_the_target():
    """Two pairs of one caption: nothing can do better than ln 2."""
    loss = softmax_contrastive(torch.eye(2), torch.ones(2, 2) / 2**0.5, torch.tensor(50.0), torch.tensor([7, 7]))
    assert float(loss) >= math.log(2) - 1e-6


def test_the_same_twice_and_the_model_is_as_it_was(prepared):
    validation, model = Validation(prepared, TOWER, TRAIN, batch=4), a_model(prepared)
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    first = validation.run(model, CPU, torch.float32)
    assert model.training
    assert torch.equal(torch.get_rng_state(), random), "training would go on with other numbers"
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert validation.run(model, CPU, torch.float32) == first
    model.eval()
    validation.run(model, CPU, torch.float32)
    assert not model.training


def test_half_precision_is_of_the_tower_alone(prepared):
    validation, model = Validation(prepared, TOWER, TRAIN, batch=4), a_model(prepared)
    whole, half = (validation.run(model, CPU, precision) for precision in (torch.float32, torch.bfloat16))
    assert half["loss"] == pytest.approx(whole["loss"], rel=0.02)


def test_a_broken_model_has_no_loss_and_scores_nothing(prepared):
    model = a_model(prepared)
    with torch.no_grad():
        model.image_projection.weight[0, 0] = float("nan")
    scores = Validation(prepared, TOWER, TRAIN, batch=4).run(model, CPU, torch.float32)
    assert math.isnan(scores["loss"])
    assert scores["top1/val"] == scores["r1/val-scenes"] == 0


def test_compiled_blocks_run_as_they_are_written(prepared):
    model = a_model(prepared)
    validation = Validation(prepared, TOWER, TRAIN, batch=4)
    expected = validation.run(model, CPU, torch.float32)

    def refuse(graph, inputs):
        raise AssertionError("validation's shapes are not to be compiled")

    model.compile_blocks(backend=refuse)
    assert validation.run(model, CPU, torch.float32) == expected


def test_only_validation_splits_are_opened(prepared, monkeypatch):
    opened = []
    table = Prepared.table
    monkeypatch.setattr(Prepared, "table", lambda self, split, columns=None: opened.append(split) or table(self, split, columns))
    Validation(prepared, TOWER, TRAIN).run(a_model(prepared), CPU, torch.float32)
    assert opened == ["val", "val-scenes"]
    assert not set(SELECTION_SPLITS) & set(TEST_SPLITS)
    with pytest.raises(UserError, match="broken"):
        prepared.table("unseen-style")


def test_only_what_is_trained_on_is_measured(prepared, tmp_path):
    emoji, scenes = prepared_rows("val", 3), prepared_rows("val-scenes", 4, source="scenes", labels=False)
    other = Prepared(write_prepared(tmp_path / "p", {"train": prepared_rows("train", 4), "val": emoji, "val-scenes": scenes}))
    for mixture, counts in {"{emoji: 1.0, scenes: 0.0}": {"val": 3}, "{scenes: 1.0}": {"val-scenes": 4}}.items():
        train = tiny_params(f"train.mixture={mixture}", "train.select_without={}").train
        assert Validation(other, TOWER, train).counts == counts


def test_what_has_no_say_stands_beside(prepared, tmp_path):
    """A split that is left out for all its sources is measured, and does not count; for one of two, the other is measured."""
    model, own = a_model(prepared), Validation(prepared, TOWER, TRAIN, batch=4).run(a_model(prepared), CPU, torch.float32)
    without = TRAIN.model_copy(update={"select_without": {"emoji": ["val"], "pets": ["val-scenes"]}})
    found = Validation(prepared, TOWER, without, batch=4).run(model, CPU, torch.float32)
    assert found == own | {"loss": own["loss/val-scenes"]}

    val = pa.concat_tables([prepared_rows("val", 3), prepared_rows("val", 4, source="pets")])
    mixed = Prepared(write_prepared(tmp_path / "p", {"train": prepared_rows("train", 4), "val": val}))
    for emoji, count in {"val": 4, "val-style": 7}.items():
        changed = {"mixture": {"emoji": 1.0, "pets": 1.0}, "select_without": {"emoji": [emoji]}}
        assert Validation(mixed, TOWER, TRAIN.model_copy(update=changed)).counts == {"val": count}


def test_something_must_have_a_say(prepared):
    train = TRAIN.model_copy(update={"select_without": {"emoji": ["val", "val-scenes"]}})
    with pytest.raises(UserError, match=r"train.select_without = .* of emoji, which are in val, val-scenes, it leaves none"):
        Validation(prepared, TOWER, train)


def test_without_validation_pictures(tmp_path):
    root = write_prepared(tmp_path / "p", {"train": prepared_rows("train", 4), "val": prepared_rows("val", 1)})
    with pytest.raises(UserError, match=r"no validation pictures of emoji: the objective needs two.*val, val-style"):
        Validation(Prepared(root), TOWER, TRAIN)


def test_a_broken_picture_is_named(tmp_path):
    broken = with_column(prepared_rows("val", 2), "image", [b"no picture"] * 2)
    root = write_prepared(tmp_path / "p", {"train": prepared_rows("train", 4), "val": broken})
    with pytest.raises(UserError, match=r"validation picture 'emoji/twemoji/1F60.' cannot be decoded"):
        Validation(Prepared(root), TOWER, TRAIN)
