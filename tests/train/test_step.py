"""The task's contrastive part: the loss that `train` names, whatever the chunk, for any contestant.

Axes: B pairs.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import reference
import torch
from modelkit import EOS, PARAMS, VOCAB, batch, moe, take, tower

from limoe.config import Params
from limoe.errors import UserError
from limoe.model.clip import Clip
from limoe.model.limoe import Limoe
from limoe.train.contestants import model_config
from limoe.train.loop import Trainer
from limoe.train.optim import make_optimizer
from limoe.train.outcome import final_metrics, write_journals
from limoe.train.step import ContrastiveTask

TWINS = [0, 1, 2, 3, 4, 2, 6, 2]  # which pair's caption each pair of the batch has


def recipe(**changes):
    return type(PARAMS.train).model_validate(PARAMS.train.model_dump() | changes)


def task(kind: str = "limoe", bias: float | None = -10.0, **changes) -> ContrastiveTask:
    torch.manual_seed(0)
    train = recipe(**changes)
    init_bias = bias if train.loss == "sigmoid" else None
    if kind == "clip":
        model = Clip(tower(), PARAMS.model.clip, 16, VOCAB, EOS, init_bias=init_bias)
    else:
        model = Limoe(tower(), moe() if kind == "limoe" else None, VOCAB, init_bias=init_bias)
    return ContrastiveTask(model, moe() if kind == "limoe" else None, train, torch.float32)


def with_twins():
    """A batch in which pairs 2, 5 and 7 have one caption, and different pictures."""
    pairs = batch(shortest=2)
    captions = take(pairs, TWINS)
    return type(pairs)(pairs.images_BCHW, captions.ids_N, captions.lengths_B, pairs.keys)


@pytest.mark.parametrize("kind", ["limoe", "clip"])
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize("positives", ["pair", "equal-captions"])
def test_the_loss_is_the_one_that_is_named_whatever_the_chunk(kind, loss, positives):
    pairs = with_twins()
    groups = TWINS if positives == "equal-captions" else list(range(8))
    for chunk in (3, 8):
        objective = task(kind, loss=loss, positives=positives, loss_chunk=chunk)(pairs, 0)
        image, text = (x.double().tolist() for x in (objective.output.image_BV, objective.output.text_BV))
        if loss == "softmax":
            wanted = reference.contrastive_with_groups(image, text, 10.0, groups)
        else:
            wanted = reference.sigmoid_contrastive(image, text, 10.0, -10.0, groups)
        assert objective.terms["contrastive"].item() == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("kind", ["limoe", "dense", "clip"])
def test_the_bias_is_the_sigmoid_loss_s_alone(kind):
    for loss, there in (("softmax", False), ("sigmoid", True)):
        one = task(kind, loss=loss)
        assert any(name.endswith("logit_bias") for name in one.model.state_dict()) is there
        assert ("logit_bias" in one(batch(), 0).report) is there
    assert one.model.logit_bias.item() == -10.0
    assert one(batch(), 0).report["logit_bias"].item() == -10.0
    groups = make_optimizer(one.model, recipe(weight_decay=0.1)).param_groups
    (decay,) = [group["weight_decay"] for group in groups for parameter in group["params"] if parameter is one.model.logit_bias]
    assert decay == 0


def test_a_model_without_a_bias_is_refused_for_sigmoid():
    with pytest.raises(ValueError, match="needs a model with a logit_bias"):
        task(loss="sigmoid", bias=None)


class Same:
    """A loader of one batch, again and again."""

    def __next__(self):
        return batch()

    def state_dict(self):
        return {}


@pytest.mark.parametrize("kind", ["limoe", "clip"])
def test_a_training_with_sigmoid_moves_the_bias_and_is_journalled(tmp_path, kind):
    train = {"steps": 4, "batch": 8, "warmup": 1, "lr": 0.01, "log_every": 2}
    one = task(kind, loss="sigmoid", loss_chunk=3, **train)
    run = Trainer(one, Same(), one.train, tmp_path, lambda row: None, lambda rows: None).resume()
    run.run()
    rows = write_journals(tmp_path / "out", run)
    for row in rows:  # Adam moves it by at most lr a step
        assert 0 < abs(row["logit_bias"] + 10) <= 0.011 * row["step"]
    assert "logit_scale" in rows[-1]
    assert len(final_metrics(rows, 4, run.rollbacks)) <= 12


def test_at_the_start_sigmoid_costs_what_its_bias_says():
    # With every embedding the same the logits are all scale + bias = 0: each of the 8 combinations of a row costs ln 2.
    one = task("dense", loss="sigmoid")
    objective = one(batch(), 0)
    same = torch.full_like(objective.output.image_BV, objective.output.image_BV.shape[1] ** -0.5)
    output = type(objective.output)(same, same, objective.output.layout, {})
    assert one.contrastive(output, batch()).item() == pytest.approx(8 * math.log(2), rel=1e-5)


@pytest.mark.parametrize("contestant", ["limoe", "dense", "clip"])
def test_a_contestant_s_model_has_a_bias_where_the_loss_needs_one(project, contestant):
    prepared = SimpleNamespace(tokenizer=SimpleNamespace(vocab_size=VOCAB, eos_id=EOS))
    for loss, wanted in (("softmax", None), ("sigmoid", -7.5)):
        params = Params.load(project / "params.yaml", (f"train.loss={loss}", "train.init_bias=-7.5"))
        assert model_config(params, contestant, prepared, [8, 9]).init_bias == wanted


@pytest.mark.parametrize("key, value", [("loss", "sigmoid"), ("positives", "equal-captions")])
def test_contestants_minimise_one_loss(project, key, value):
    with pytest.raises(UserError, match=f"contestants.clip.{key}: contestants see the same data"):
        Params.load(project / "params.yaml", (f"contestants.clip.{key}={value}",))
