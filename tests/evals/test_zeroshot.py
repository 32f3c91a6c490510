"""Zero-shot scores against scikit-learn, torchmetrics and hand counts; ties against the model; prompts; encoding once."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from evalkit import TableModel, encoder, eval_set, preprocess, tokenize, unit
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, recall_score, top_k_accuracy_score
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

from limoe.errors import UserError
from limoe.evals import ranking
from limoe.evals.compare import Resampler, calibration_interval
from limoe.evals.encoder import Encoder
from limoe.evals.pictures import Column
from limoe.evals.prompts import class_embeddings
from limoe.evals.sets import result_rows
from limoe.evals.store import Store
from limoe.evals.zeroshot import PER_CLASS, ZeroShot

CLASSES, PICTURES = 12, 60


def random_case(seed=0):
    """(model, labels, scores, targets): pictures near their class, so that scores are neither chance nor perfect."""
    generator = torch.Generator().manual_seed(seed)
    texts = torch.randn(CLASSES, 8, generator=generator)
    target = torch.cat([torch.arange(CLASSES), torch.randint(CLASSES, (PICTURES - CLASSES,), generator=generator)])
    images = texts[target] + 1.5 * torch.randn(PICTURES, 8, generator=generator)
    return TableModel(images, texts, scale=5.0), target, unit(images) @ unit(texts).T


def run(model, target, names=None, templates=("{}",), chunk=1024, **more):
    names = names or [f"t{number:02d}" for number in range(CLASSES)]
    data = eval_set([["t0"]] * len(target), [names[number] for number in target])
    return ZeroShot("val", data, templates, 15, chunk, **more).run(encoder(model))


def scores_of(outcome):
    return {score.metric: score.value for score in outcome.scores()}


@pytest.mark.parametrize("seed", range(3))
def test_untied_scores_equal_scikit_learn_and_torchmetrics(seed):
    model, target, scores = random_case(seed)
    found = scores_of(run(model, target))
    labels = range(CLASSES)
    assert found["top1"] == pytest.approx(top_k_accuracy_score(target, scores, k=1, labels=labels))
    assert found["top5"] == pytest.approx(top_k_accuracy_score(target, scores, k=5, labels=labels))
    assert found["top5"] == pytest.approx(
        float(multiclass_accuracy(scores, target, num_classes=CLASSES, top_k=5, average="micro")), abs=1e-6
    )
    assert found["per_class"] == pytest.approx(balanced_accuracy_score(target, scores.argmax(1)))
    probabilities = (5.0 * scores).softmax(1)
    assert found["confidence"] == pytest.approx(float(probabilities.amax(1).mean()), abs=1e-6)
    expected = multiclass_calibration_error(probabilities, target, num_classes=CLASSES, n_bins=15)
    assert found["calibration"] == pytest.approx(float(expected), abs=1e-6)
    assert found["chance"] == 1 / CLASSES


def test_each_class_has_its_own_score():
    model, target, scores = random_case()
    found = {score.metric: score for score in run(model, target).scores()}
    for number in range(CLASSES):
        mine = target == number
        score = found[f"{PER_CLASS}t{number:02d}"]
        assert score.value == pytest.approx(float((scores.argmax(1)[mine] == number).float().mean()))
        assert score.n == int(mine.sum())


def test_a_mean_per_class_leaves_its_weights_where_classes_differ_in_size():
    model, target, scores = random_case()
    values = run(model, target).items[0].values
    hit, counts = (scores.argmax(1) == target).numpy(), torch.bincount(target)[target].numpy()
    np.testing.assert_allclose(values["class_weight"], PICTURES / (CLASSES * counts))
    np.testing.assert_allclose(values["per_class"], hit * values["class_weight"])
    assert values["class_weight"].mean() == pytest.approx(1)


def test_classes_of_one_size_need_no_weights():
    model, _, _ = random_case()
    values = run(model, torch.arange(CLASSES).repeat(PICTURES // CLASSES)).items[0].values
    assert "class_weight" not in values
    np.testing.assert_array_equal(values["per_class"], values["top1"])


def test_chunks_do_not_change_scores_and_bound_the_matrix(monkeypatch):
    model, target, _ = random_case()
    whole = run(model, target)
    shapes = []
    plain = ranking.similarity

    def watched(a, b):
        shapes.append((len(a), len(b)))
        return plain(a, b)

    monkeypatch.setattr("limoe.evals.zeroshot.similarity", watched)
    cut = run(model, target, chunk=7)
    assert max(rows for rows, _ in shapes) == 7
    for metric, values in whole.items[0].values.items():
        np.testing.assert_allclose(cut.items[0].values[metric], values, atol=1e-6)


@pytest.mark.parametrize("noise", [0.0, 1e-7], ids=["equal", "equal but for rounding"])
def test_a_model_that_gives_everything_the_same_score_scores_nothing(noise):
    generator = torch.Generator().manual_seed(0)
    same = torch.ones(CLASSES, 8) + noise * torch.rand(CLASSES, 8, generator=generator)
    model = TableModel(same, same)
    found = scores_of(run(model, torch.arange(CLASSES)))
    assert (found["top1"], found["top5"], found["per_class"]) == (0, 0, 0)


def test_calibration_counts_a_tie_as_a_miss_and_lies_in_its_interval():
    """Sure of each class to 1 / 12 and right about none by the rule for ties: the error is 1 / 12, and not 0."""
    same = torch.ones(CLASSES, 8)
    outcome = run(TableModel(same, same), torch.arange(CLASSES))
    error = scores_of(outcome)["calibration"]
    assert error == pytest.approx(1 / CLASSES)
    values, resampler = outcome.items[0].values, Resampler([str(number) for number in range(CLASSES)], 500, 0, "val")
    interval = calibration_interval(values["confidence"], values["top1"], 15, resampler)
    assert interval.low - 1e-9 <= error <= interval.high + 1e-9


def test_rank_counts_other_candidates_that_are_at_least_as_good():
    scores = torch.tensor([[0.5, 0.5, 0.1], [0.5, 0.4, 0.1], [0.2, 0.3, 0.2]])
    assert ranking.ranks(scores, torch.tensor([0, 0, 2])).tolist() == [1, 0, 2]


def test_a_class_is_the_mean_of_its_unit_prompts():
    texts = torch.tensor([[3.0, 0.0], [0.0, 0.5], [1.0, 1.0], [0.0, 9.0]])
    model = TableModel(torch.ones(1, 2), texts)
    table = {"t0": 0, "a t0": 1, "t2": 2, "a t2": 3}
    lookup = Encoder(model, lambda prompts: torch.tensor([[table[prompt]] for prompt in prompts]), lambda image: image, batch=2)
    found = class_embeddings(lookup, [("t0",), ("t2",)], ["{}", "A  {}"])
    r = 0.5**0.5
    second = np.array([r, r + 1]) / np.hypot(r, r + 1)
    np.testing.assert_allclose(found.numpy(), [[r, r], second], atol=1e-6)


def test_pictures_and_texts_are_encoded_once():
    model, target, _ = random_case()
    data = eval_set([["t0"]] * PICTURES, [f"t{number:02d}" for number in target])
    shared = encoder(model, batch=16)
    first = ZeroShot("val", data, ["{}"], 15, 64).run(shared)
    assert model.batches == [16, 16, 16, 12, 12]
    part = ZeroShot("part", data, ["{}"], 15, 64, rows=range(20)).run(shared)
    assert len(model.batches) == 5
    assert part.items[0].keys == first.items[0].keys[:20]


def test_the_batch_changes_no_score():
    model, target, _ = random_case()
    data = eval_set([["t0"]] * PICTURES, [f"t{number:02d}" for number in target])
    one, many = (ZeroShot("val", data, ["{}"], 15, 64).run(encoder(model, batch)) for batch in (1, 60))
    np.testing.assert_array_equal(one.items[0].values["top1"], many.items[0].values["top1"])


def test_broken_weights_are_an_error_and_not_a_perfect_score():
    model, target, _ = random_case()
    model.images_ND[3] = torch.nan
    with pytest.raises(UserError, match="1 of 60 pictures of val are not finite"):
        run(model, target)


def with_classes(target, classes, prompts=None):
    """Pictures labelled by number, among `classes` (label -> names)."""
    data = eval_set([["t0"]] * len(target), [str(number) for number in target])
    return replace(data, classes=classes, prompts=prompts or {})


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("seed", range(2))
def test_worst_classes_and_calibration_equal_scikit_learn_and_a_slow_count(seed, tied):
    """Tied: scores are rounded to few levels; a picture is hit only if every other class is below its own."""
    generator = torch.Generator().manual_seed(seed)
    texts = torch.eye(CLASSES)
    target = torch.randint(CLASSES - 2, (PICTURES,), generator=generator)  # the last two classes have no picture
    images = torch.randn(PICTURES, CLASSES, generator=generator) + 2 * texts[target]
    images = images.round() if tied else images
    images[:, 0] += 1e-3 * (images.norm(dim=1) == 0)
    scores = unit(images).double().numpy()
    data = with_classes(target.tolist(), {str(number): (f"t{number}",) for number in range(CLASSES)})
    outcome = ZeroShot("val", data, ["{}"], 15, 7).run(encoder(TableModel(images, texts, scale=5.0)))
    guesses, ranks = [], []
    for row, own in zip(scores, target.tolist(), strict=True):
        others = [score for number, score in enumerate(row) if number != own]
        ranks.append(sum(score >= row[own] - 1e-6 for score in others))
        guesses.append(own if not ranks[-1] else max((number for number in range(CLASSES) if number != own), key=row.__getitem__))
    found = scores_of(outcome)
    assert found["top1"] == pytest.approx(np.mean([rank < 1 for rank in ranks]))
    assert found["top5"] == pytest.approx(np.mean([rank < 5 for rank in ranks]))
    assert found["per_class"] == pytest.approx(recall_score(target, guesses, labels=target.unique(), average="macro"))
    assert found["chance"] == 1 / CLASSES
    confusion = confusion_matrix(target, guesses, labels=range(CLASSES))
    shares = {number: row[number] / row.sum() for number, row in enumerate(confusion) if row.sum()}
    assert {number: found[f"{PER_CLASS}{number}"] for number in shares} == pytest.approx(shares)
    assert [one.top1 for one in outcome.worst] == pytest.approx(sorted(share for share in shares.values() if share < 1))
    for one in outcome.worst:
        row = confusion[int(one.label)].copy()
        assert (one.name, one.top1, one.n) == (f"t{one.label}", pytest.approx(shares[int(one.label)]), row.sum())
        row[int(one.label)] = 0
        assert [count for _, count in one.taken_for] == [count for count in sorted(row, reverse=True)[:5] if count]
        assert all(row[int(name[1:])] == count for name, count in one.taken_for)
    hits, confidence = np.array(ranks) < 1, np.exp(5 * scores).max(1) / np.exp(5 * scores).sum(1)
    bins = np.minimum((confidence * 15).astype(int), 14)
    gaps = [abs((confidence[bins == one] - hits[bins == one]).sum()) for one in range(15)]
    assert found["calibration"] == pytest.approx(sum(gaps) / PICTURES, abs=1e-6)


def test_at_most_twenty_worst_classes_the_worst_first():
    images = torch.roll(torch.eye(30), 1, dims=0)
    images[:4] = torch.eye(30)[:4]
    data = with_classes(list(range(30)), {str(number): (f"t{number}",) for number in range(30)})
    worst = ZeroShot("val", data, ["{}"], 15, 64).run(encoder(TableModel(images, torch.eye(30)))).worst
    assert [one.label for one in worst] == [str(number) for number in range(4, 24)]
    assert (worst[0].taken_for, worst[0].top1, worst[0].n) == ((("t3", 1),), 0.0, 1)


def test_a_class_of_several_names_is_the_mean_of_all():
    texts = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    data = with_classes([0, 1], {"0": ("t0", "t1"), "1": ("t2",)})
    model = TableModel(torch.tensor([[1.0, 1.0], [1.0, 0.9]]), texts)
    found = scores_of(ZeroShot("val", data, ["{}"], 15, 64).run(encoder(model)))
    assert (found["top1"], found[f"{PER_CLASS}0"], found[f"{PER_CLASS}1"]) == (0.5, 1.0, 0.0)


def test_what_was_embedded_once_is_read_the_next_time_and_only_then(tmp_path):
    model, target, _ = random_case()
    names = [f"t{number:02d}" for number in range(CLASSES)]
    data = eval_set([["t0"]] * PICTURES, [names[number] for number in target])

    def score(data, store):
        model.batches.clear()
        outcome = ZeroShot("val", data, ["{}"], 15, 64).run(Encoder(model, tokenize, preprocess, 16, store=Store(store)))
        return result_rows([outcome]), len(model.batches)

    first, batches = score(data, tmp_path / "a")
    assert batches == 5
    assert score(data, tmp_path / "a") == (first, 0)
    assert score(data, tmp_path / "b") == (first, 5)  # another model
    pictures = replace(data, images=Column(pa.chunked_array([data.images.read(0, PICTURES)[::-1]])))
    assert score(pictures, tmp_path / "a")[1] == 4  # other pictures, the same names
    (damaged,) = (path for path in (tmp_path / "b").iterdir() if path.name.startswith("texts"))
    damaged.write_bytes(b"half")
    assert score(data, tmp_path / "b") == (first, 1)
    assert sorted(path.suffix for path in (tmp_path / "a").iterdir()) == [".safetensors"] * 3
