"""Nearly equal captions against a brute-force count, and captions by script."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from limoe.data import negatives
from limoe.data.negatives import Negatives, alike_pairs
from limoe.data.scripts import kinds, script_of
from limoe.data.statistics import Rows

EOS, UNK = 1, 2


def brute_force(captions: list[list[int]]) -> int:
    """Pairs that differ and share four of five of their tokens."""
    pairs = [(set(a[:-1]), set(b[:-1])) for a, b in itertools.combinations(captions, 2) if a != b]
    return sum(bool(a | b) and 5 * len(a & b) >= 4 * len(a | b) for a, b in pairs)


def some_captions(rng: random.Random, count: int) -> list[list[int]]:
    return [[rng.choice([5, 6, 7, 8, 9, 10]) for _ in range(rng.randint(0, 9))] + [EOS] for _ in range(count)]


def rows_of(captions: list[list[int]], source: str = "a") -> Rows:
    folded = [[" ".join(map(str, ids))] for ids in captions]
    return Rows([source] * len(captions), [str(i) for i in range(len(captions))], [[ids] for ids in captions], folded)


def vars_of(rows: Rows) -> tuple[Sequence[Any], ...]:
    return rows.sources, rows.pictures, rows.ids_RK, rows.folded_RK


def test_alike_pairs_against_brute_force() -> None:
    for seed in range(20):
        captions = some_captions(random.Random(seed), 30)
        assert alike_pairs(captions) == brute_force(captions)
    assert alike_pairs([[EOS], [EOS]]) == 0
    assert alike_pairs([[5, 6, EOS], [6, 5, EOS], [6, 5, EOS]]) == 2  # equal captions are counted elsewhere


def test_a_batch_of_everything_is_counted_exactly() -> None:
    captions = some_captions(random.Random(0), 40)
    found = Negatives.of(rows_of(captions), {"a": 1.0}, 40)
    assert (found.alike, found.error) == (brute_force(captions), 0)
    assert found.equal == sum(a == b for a, b in itertools.combinations(captions, 2))


def test_drawn_batches_have_the_expected_number() -> None:
    captions = some_captions(random.Random(1), 200)
    found = Negatives.of(rows_of(captions), {"a": 1.0}, 50)
    expected = brute_force(captions) * (50 * 49) / (200 * 199)
    assert found.error > 0
    assert found.alike == pytest.approx(expected, abs=4 * found.error)


def test_a_large_batch_is_judged_by_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(negatives, "MOST", 25)
    captions = some_captions(random.Random(2), 100)
    found = Negatives.of(rows_of(captions), {"a": 1.0}, 100)
    assert found.error > 0
    assert found.alike == pytest.approx(brute_force(captions), abs=4 * found.error)


def test_a_source_too_small_for_the_sample_is_no_error_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of a batch's 100 rows are less than one of a sample of 25: some samples have one, none has always one."""
    monkeypatch.setattr(negatives, "MOST", 25)
    captions = [[5, place + 10, EOS] for place in range(98)]
    rare = [[5, 6, 7, 8, 9, EOS], [5, 6, 7, 8, EOS]]
    parts = rows_of(captions), rows_of(rare, "b")
    rows = Rows(*(list(one) + list(other) for one, other in zip(*map(vars_of, parts), strict=True)))
    monkeypatch.setattr(negatives, "DRAWS", 400)
    found = Negatives.of(rows, {"a": 0.98, "b": 0.02}, 100)
    assert found.error > 0
    assert found.alike == pytest.approx(1, abs=4 * found.error)


@pytest.mark.parametrize(
    "text, script",
    [("two cats", "Latin"), ("café", "Latin"), ("две кошки", "Cyrillic"), ("two кошки", "Cyrillic"), ("2 + 2", "no letters"),
     ("قطتان", "Arabic"), ("🐈", "no letters"), ("", "no letters"), ("두 고양이", "Hangul")],
)  # fmt: skip
def test_scripts(text: str, script: str) -> None:
    assert script_of(text) == script


def test_kinds_by_hand() -> None:
    """Source a: one Latin caption of a row of one; one Latin and one Cyrillic of a row of two."""
    rows = Rows(
        ["a", "a", "b"],
        ["x", "y", "z"],
        [[[5, 6, EOS]], [[5, EOS], [UNK, 7, 8, EOS]], [[9, EOS]]],
        [["ab"], ["a", "бвг"], ["d"]],
    )
    latin, cyrillic, other = kinds(rows, unk_id=UNK, length=3)
    assert (latin.source, latin.script, latin.captions, latin.share) == ("a", "Latin", 2, 0.75)
    assert latin.tokens == pytest.approx((0.5 * 3 + 0.25 * 2) / 0.75)
    assert (latin.truncated, latin.unknown, latin.used) == (0, 0, 2)
    assert (cyrillic.script, cyrillic.share, cyrillic.truncated) == ("Cyrillic", 0.25, 1)
    assert (cyrillic.unknown, cyrillic.used) == (0.25, 2)
    assert (other.source, other.share) == ("b", 1)
    assert np.isclose(sum(kind.share for kind in (latin, cyrillic)), 1)
