"""Draws of training pictures: how many of each class, the same for whoever asks, nested, and no more read than is looked at."""

from dataclasses import replace

import pytest
from evalkit import eval_set, prepared_rows, write_prepared

from limoe.config import ProbeParams
from limoe.data.prepared import Prepared
from limoe.evals.sets import COLUMNS, EvalSet
from limoe.evals.shots import divide, draw, feasible, shuffled, trimmed, with_training


def training(**counts):
    """So many pictures of each label."""
    labels = [label for label, count in counts.items() for _ in range(count)]
    return eval_set([[label] for label in labels], labels, name="pets/train")


def probe(shots=(1, 2), draws=3, full_l2=(), held_out=0.25):
    return ProbeParams(shots=shots, draws=draws, l2=1.0, full_l2=full_l2, held_out=held_out)


def keys(train, rows):
    return {train.keys[row] for row in rows}


def test_a_draw_has_so_many_of_each_class_and_is_nested():
    train = training(cat=20, dog=9)
    for seed in range(3):
        order = shuffled(train, seed)
        one, five = draw(order, 1), draw(order, 5)
        assert [[train.labels[row] for row in rows] for rows in (one, five)] == [["cat", "dog"], ["cat"] * 5 + ["dog"] * 5]
        assert set(one) < set(five)


def test_seeds_draw_differently_and_each_the_same_again():
    train = training(cat=30, dog=30)
    draws = [draw(shuffled(train, seed), 5) for seed in range(5)]
    assert len(set(map(tuple, draws))) == 5
    assert draws == [draw(shuffled(train, seed), 5) for seed in range(5)]


def test_each_picture_of_a_class_is_drawn_as_often_as_another():
    train = training(cat=4, dog=4)
    counts = [0] * 8
    for seed in range(800):
        for row in draw(shuffled(train, seed), 1):
            counts[row] += 1
    assert all(abs(count - 200) < 5 * (800 * 0.25 * 0.75) ** 0.5 for count in counts)


def test_a_draw_does_not_depend_on_the_order_of_the_pictures():
    train = training(cat=8, dog=8)
    backwards = train.take(range(15, -1, -1))
    assert backwards.images.read(0, 2) == [train.images.read(15, 1)[0], train.images.read(14, 1)[0]]
    assert keys(train, draw(shuffled(train, 1), 3)) == keys(backwards, draw(shuffled(backwards, 1), 3))


@pytest.mark.parametrize(
    "share, count, held", [(0.25, 2, 1), (0.25, 3, 1), (0.25, 8, 2), (0.25, 10, 2), (0.9, 2, 1), (0.9, 4, 3)]
)
def test_a_share_of_each_class_is_held_out_but_never_all(share, count, held):
    train = training(cat=count, dog=2)
    learn, out = divide(train, share)
    assert sorted(learn + out) == list(range(count + 2))
    assert [train.labels[row] for row in out] == ["cat"] * held + ["dog"]


def test_what_every_class_has_pictures_for():
    grid = probe(shots=(1, 5, 10), full_l2=(1.0,))
    assert feasible(training(cat=9, dog=30), grid) == ([1, 5], True)
    assert feasible(training(cat=1, dog=30), grid) == ([1], False)
    assert feasible(training(cat=30, dog=30), probe(shots=(10,))) == ([10], False)


def test_only_what_is_drawn_is_kept_and_is_drawn_again():
    train = training(cat=40, dog=40)
    data = replace(eval_set([["cat"], ["dog"]], ["cat", "dog"], name="pets"), train=train)
    kept = trimmed(data, probe()).train
    assert 2 * 2 < len(kept) <= 3 * 2 * 2
    for seed in range(3):
        for count in (1, 2):
            assert keys(kept, draw(shuffled(kept, seed), count)) == keys(train, draw(shuffled(train, seed), count))
    assert trimmed(data, probe(full_l2=(1.0,))).train is train
    assert trimmed(data, probe(shots=())).train is None
    assert trimmed(data, probe(shots=(50,))).train is None


def test_a_split_learns_from_the_training_pictures_of_its_labels_if_all_have_some(tmp_path):
    root = write_prepared(tmp_path / "data", {"train": prepared_rows("train", 6), "val": prepared_rows("val", 4)})
    prepared = Prepared(root)
    data = EvalSet.of("val", prepared.table("val", COLUMNS))
    train = with_training(data, prepared).train
    assert (train.name, sorted(train.labels), train.keys) == ("val/train", sorted(data.labels), data.keys)
    assert train.images.read(0, 4) == prepared.table("train", COLUMNS)["image"].to_pylist()[:4]
    stranger = replace(data, labels=(*data.labels[:3], "unheard of"))
    assert with_training(stranger, prepared).train is None
    assert with_training(replace(data, labels=(None,) * 4), prepared).train is None
