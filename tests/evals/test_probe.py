"""Probes against scikit-learn, draw by draw; ties against the model; the L2 is chosen on training pictures alone."""

from dataclasses import replace
from statistics import stdev

import numpy as np
import pytest
import torch
from evalkit import TableModel, encoder, eval_set, preprocess, slow_ranks, tokenize
from sklearn.linear_model import LogisticRegression, Ridge

from limoe.config import ProbeParams
from limoe.evals.encoder import Encoder
from limoe.evals.linear import CONSTANT, FLOOR
from limoe.evals.metrics import LINEAR_PROBE
from limoe.evals.probe import Probe
from limoe.evals.shots import divide, draw, shuffled, trimmed

CLASSES, EACH, TESTED = 5, 8, 60


def params(**changes):
    settings = {"shots": (1, 4), "draws": 3, "l2": 16.0, "full_l2": (), "held_out": 0.25}
    return ProbeParams(**settings | changes)


def case(seed=0, noise=1.2):
    """(model, test set with its training set): 40 training pictures, then 60 to test on, near the direction of their class."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.cat([torch.arange(CLASSES).repeat(EACH), torch.randint(CLASSES, (TESTED,), generator=generator)])
    images = torch.eye(CLASSES, 12)[target] + noise * torch.randn(len(target), 12, generator=generator) / 12**0.5
    labels = [f"t{number}" for number in target.tolist()]
    both = eval_set([[label] for label in labels], labels)
    train, test = both.take(range(CLASSES * EACH)), both.take(range(CLASSES * EACH, len(labels)))
    return TableModel(images, torch.eye(CLASSES, 12)), replace(test, name="pets", train=replace(train, name="pets/train"))


def features(model, data):
    """(x, targets) of the training and of the test pictures."""
    x = 3 * model.images_ND.double().numpy()
    rows = len(data.train)
    told = [np.array([int(label[1:]) for label in part.labels]) for part in (data.train, data)]
    return (x[:rows], told[0]), (x[rows:], told[1])


def standardise(x, by):
    return (x - by.mean(0)) / (by.std(0) + FLOOR)


def run(model, data, settings):
    outcome = Probe(data, data.train, settings, chunk=7).run(encoder(model))
    return outcome.items[0], {score.metric: score for score in outcome.scores()}


@pytest.mark.parametrize("seed", range(2))
def test_few_shots_are_the_mean_over_draws_of_scikit_learns_ridge(seed):
    model, data = case(seed)
    items, scores = run(model, data, params())
    (x, target), (test, truth) = features(model, data)
    for count in (1, 4):
        hits = []
        for number in range(3):
            rows = draw(shuffled(data.train, number), count)
            z = [np.column_stack([standardise(part, x[rows]), np.full(len(part), CONSTANT)]) for part in (x[rows], test)]
            y = np.where(target[rows][:, None] == np.arange(CLASSES), 1.0, -1.0)
            hits.append(Ridge(alpha=16.0, fit_intercept=False).fit(z[0], y).predict(z[1]).argmax(1) == truth)
        np.testing.assert_allclose(items.values[f"{count}-shot"], np.mean(hits, axis=0))
        each = [float(np.mean(one)) for one in hits]
        assert scores[f"{count}-shot"].value == pytest.approx(np.mean(each))
        assert (scores[f"{count}-shot/sd"].value, scores[f"{count}-shot/sd"].n) == (pytest.approx(stdev(each)), 3)
        assert 0.3 < scores[f"{count}-shot"].value < 1
    assert LINEAR_PROBE not in scores
    assert (items.keys, items.groups) == (data.keys, data.groups)


def test_the_full_probe_is_scikit_learns_with_the_l2_that_its_held_out_pictures_choose():
    grid = (1.0, 1e-1, 1e-2, 1e-3)
    model, data = case(noise=2.0)
    items, scores = run(model, data, params(shots=(), full_l2=grid))
    (x, target), (test, truth) = features(model, data)
    learn, held = divide(data.train, 0.25)

    def hits(rows, l2, seen, right):
        theirs = LogisticRegression(C=1 / (l2 * len(rows)), tol=1e-10, max_iter=10_000)
        return theirs.fit(standardise(x[rows], x[rows]), target[rows]).predict(standardise(seen, x[rows])) == right

    counts = {l2: hits(learn, l2, x[held], target[held]).sum() for l2 in grid}
    best = max(grid, key=lambda l2: (counts[l2], l2))
    assert len(set(counts.values())) > 1
    assert (scores[f"{LINEAR_PROBE}/l2"].value, scores[f"{LINEAR_PROBE}/l2"].n) == (best, len(held))
    np.testing.assert_array_equal(items.values[LINEAR_PROBE], hits(list(range(len(x))), best, test, truth))
    assert set(scores) == {LINEAR_PROBE, f"{LINEAR_PROBE}/l2"}


def test_the_choice_of_l2_never_sees_the_test_pictures():
    model, data = case()
    grid = params(shots=(), full_l2=(1.0, 1e-2, 1e-4))
    _, before = run(model, data, grid)
    model.images_ND[len(data.train) :] = model.images_ND[len(data.train) :].flip(0)
    _, after = run(model, data, grid)
    assert after[f"{LINEAR_PROBE}/l2"] == before[f"{LINEAR_PROBE}/l2"]
    assert after[LINEAR_PROBE].value != before[LINEAR_PROBE].value


def test_the_larger_of_equally_good_l2s_is_chosen():
    model, data = case(noise=0.01)
    _, scores = run(model, data, params(shots=(), full_l2=(1e-3, 1e-1, 1e-2)))
    assert (scores[f"{LINEAR_PROBE}/l2"].value, scores[LINEAR_PROBE].value) == (1e-1, 1.0)


def test_a_model_that_sees_no_difference_scores_nothing():
    """All pictures are one: every class gets the same score, which an argmax would give to the first."""
    model, data = case()
    model.images_ND[:] = torch.ones(12)
    _, scores = run(model, data, params(full_l2=(1e-2,)))
    assert [scores[name].value for name in ("1-shot", "4-shot", LINEAR_PROBE)] == [0, 0, 0]


def test_classes_that_were_taught_alike_are_tied_and_all_others_are_scored_as_ever():
    """The first two classes have the same training pictures: whatever scikit-learn's scores make an argmax say of theirs, they
    are missed; so is any other picture that both come before."""
    model, data = case(noise=2.0)
    seen = CLASSES * EACH
    model.images_ND[1:seen:CLASSES] = model.images_ND[0:seen:CLASSES]
    settings = params(shots=(EACH,), full_l2=(1e-2,))
    items, _ = run(model, data, settings)
    (x, target), (test, truth) = features(model, data)
    z = [standardise(part, x) for part in (x, test)]
    few, full = [np.column_stack([part, np.full(len(part), CONSTANT)]) for part in z], 1 / (1e-2 * len(x))
    y = np.where(target[:, None] == np.arange(CLASSES), 1.0, -1.0)
    scores = {
        f"{EACH}-shot": Ridge(alpha=16.0, fit_intercept=False).fit(few[0], y).predict(few[1]),
        LINEAR_PROBE: LogisticRegression(C=full, tol=1e-10, max_iter=10_000).fit(z[0], target).decision_function(z[1]),
    }
    for metric, found in scores.items():
        assert np.abs(found[:, 0] - found[:, 1]).max() < 1e-6
        hits = [rank == 0 for rank in slow_ranks(found, [{label} for label in truth])]
        np.testing.assert_array_equal(items.values[metric], hits)
        assert not items.values[metric][truth < 2].any()
        assert items.values[metric].sum() < (found.argmax(1) == truth).sum()


def test_where_there_is_no_choice_there_is_one_draw():
    model, data = case()
    items, scores = run(model, data, params(shots=(EACH, 1)))
    assert set(scores) == {f"{EACH}-shot", "1-shot", "1-shot/sd"}
    assert set(items.values[f"{EACH}-shot"]) == {0.0, 1.0}


def test_trimming_changes_no_score_and_saves_pictures():
    model, data = case()
    whole = run(model, data, params(shots=(1,)))[1]
    model.batches.clear()
    assert run(model, trimmed(data, params(shots=(1,))), params(shots=(1,)))[1] == whole
    assert sum(model.batches) <= TESTED + 3 * CLASSES


def test_progress_is_told_and_changes_nothing():
    model, data = case()
    told = []

    def track(steps, what, count):
        told.append((what, count))
        return steps

    settings = params(full_l2=(1e-1, 1e-2, 1e-3))
    watched = Encoder(model, tokenize, preprocess, 64, track=track)
    outcome = Probe(data, data.train, settings, chunk=7).run(watched)
    assert {score.metric: score for score in outcome.scores()} == run(model, data, settings)[1]
    assert told[-2:] == [("pets: few-shot probes", 2), ("pets: linear probe", 3)]
    assert [what for what, _ in told[:-2]] == ["pets: pictures", "pets/train: pictures"]


def test_pictures_without_a_label_are_left_out():
    model, data = case()
    holes = replace(data, labels=(None, *data.labels[1:]))
    items, _ = run(model, holes, params())
    expected, _ = run(model, data, params())
    assert items.keys == data.keys[1:]
    np.testing.assert_array_equal(items.values["4-shot"], expected.values["4-shot"][1:])
