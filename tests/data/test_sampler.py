"""The sampler's promises, as properties."""

from __future__ import annotations

import hashlib
import json
from collections import Counter

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from limoe.data.sampler import Pick, Sampler, Source, State, mixture_counts, stream
from limoe.errors import UserError

WORDS = [f"w{i}" for i in range(40)]
STEPS = 100


def source(name: str, captions: list[list[str]], pictures: list[int] | None = None) -> Source:
    """Rows with these captions, each with a picture of its own if `pictures` does not say which it has."""
    digests = [hashlib.sha256(f"{name}{i}".encode()).hexdigest() for i in pictures or range(len(captions))]
    return Source.of(name, captions, digests)


@st.composite
def samplers(draw: st.DrawFn) -> Sampler:
    """One or two sources whose captions repeat, within and across sources."""
    sources, counts = [], []
    for name in ("a", "b")[: draw(st.integers(1, 2))]:
        rows = draw(st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=3), min_size=8, max_size=40))
        pictures = draw(st.lists(st.integers(0, 30), min_size=len(rows), max_size=len(rows)))
        made = source(name, rows, pictures)
        most = max(Counter(mark for marks in made.marks_R for mark in marks).values())
        assume(len(rows) // most >= 2)
        sources.append(made)
        counts.append(draw(st.integers(1, max(1, len(rows) // most // 4))))
    return Sampler(sources, counts, draw(st.integers(0, 5)), STEPS)


def run(sampler: Sampler, batches: int) -> tuple[list[list[Pick]], State]:
    state, drawn = sampler.start, []
    for _ in range(batches):
        picks, state = sampler.draw(state)
        drawn.append(picks)
    return drawn, state


@given(samplers())
@settings(max_examples=60, deadline=None)
def test_no_two_records_of_a_batch_share_a_caption_or_picture_and_counts_are_exact(sampler: Sampler) -> None:
    for picks in run(sampler, 12)[0]:
        marks = [mark for pick in picks for mark in sampler.sources[pick.source].marks_R[pick.row]]
        assert len(marks) == len(set(marks))
        assert [sum(pick.source == s for pick in picks) for s in range(len(sampler.counts))] == list(sampler.counts)


@given(samplers())
@settings(max_examples=60, deadline=None)
def test_each_row_comes_exactly_once_an_epoch(sampler: Sampler) -> None:
    batches = 3 * max(s.rows // c for s, c in zip(sampler.sources, sampler.counts, strict=True))
    drawn, state = run(sampler, batches)
    for number, (its, cursor) in enumerate(zip(sampler.sources, state.cursors, strict=True)):
        given_out = [(pick.epoch, pick.row) for picks in drawn for pick in picks if pick.source == number]
        ledger = Counter(given_out) + Counter(cursor.backlog)
        assert max(ledger.values()) == 1
        epochs = cursor.drawn // its.rows
        for epoch in range(epochs):
            assert sorted(row for e, row in ledger if e == epoch) == list(range(its.rows))
        assert len(ledger) == cursor.drawn


@given(samplers(), st.integers(0, 15))
@settings(max_examples=60, deadline=None)
def test_resuming_from_json_continues_as_if_nothing_had_happened(sampler: Sampler, stop: int) -> None:
    undisturbed, _ = run(sampler, stop + 5)
    _, state = run(sampler, stop)
    fresh = Sampler(sampler.sources, sampler.counts, sampler.seed, STEPS)
    state = State.from_dict(json.loads(json.dumps(state.to_dict())))
    for expected in undisturbed[stop:]:
        picks, state = fresh.draw(state)
        assert picks == expected


def test_each_epoch_has_its_own_order_and_captions_and_seeds_differ() -> None:
    many = source("a", [[f"{i} one", f"{i} two", f"{i} three"] for i in range(200)])
    drawn, _ = run(Sampler([many], [200], 0, STEPS), 2)
    orders = [[pick.row for pick in picks] for picks in drawn]
    captions = [{pick.row: pick.caption for pick in picks} for picks in drawn]
    assert orders[0] != orders[1]
    assert captions[0] != captions[1]
    assert all(50 < Counter(c.values())[k] < 85 for c in captions for k in range(3))  # 200 / 3, five sigma
    assert run(Sampler([many], [200], 1, STEPS), 1)[0][0] != drawn[0]


def test_a_source_s_order_does_not_depend_on_the_other_sources() -> None:
    a = source("a", [[f"a{i}"] for i in range(30)])
    b = source("b", [[f"b{i}"] for i in range(30)])
    alone = [[p.row for p in picks] for picks in run(Sampler([b], [4], 7, STEPS), 6)[0]]
    both = [[p.row for p in picks if p.source == 1] for picks in run(Sampler([a, b], [3, 4], 7, STEPS), 6)[0]]
    assert [set(rows) for rows in alone] == [set(rows) for rows in both]


def test_rows_that_wait_do_not_fall_behind() -> None:
    rows = [[f"{i // 2}"] for i in range(60)]  # each caption twice
    drawn, _ = run(Sampler([source("a", rows)], [20], 0, STEPS), 30)
    rows_of_epoch = Counter(pick.epoch for picks in drawn for pick in picks)
    assert all(rows_of_epoch[epoch] == 60 for epoch in range(8))  # of the ten that were drawn


def test_captions_are_compared_as_the_tokenizer_folds_them() -> None:
    cats = source("a", [["A  “Cat” "], ['a "cat"'], ["dog"], ["bird"]])
    for picks in run(Sampler([cats], [2], 0, STEPS), 20)[0]:
        assert {pick.row for pick in picks} != {0, 1}


@pytest.mark.parametrize(
    "mixture, batch, expected",
    [
        ({"a": 1.0}, 7, {"a": 7}),
        ({"a": 0.5, "b": 0.5}, 7, {"a": 4, "b": 3}),
        ({"a": 1, "b": 1, "c": 1}, 8, {"a": 3, "b": 3, "c": 2}),
        ({"a": 0.55, "b": 0.45, "c": 0.0}, 10, {"a": 6, "b": 4}),
        ({"a": 3, "b": 5}, 256, {"a": 96, "b": 160}),
    ],
)
def test_mixture_counts_by_hand(mixture: dict[str, float], batch: int, expected: dict[str, int]) -> None:
    assert mixture_counts(mixture, batch) == expected


@given(st.dictionaries(st.sampled_from("abcdef"), st.floats(0.05, 1), min_size=1), st.integers(200, 600))
def test_mixture_counts_sum_to_the_batch_and_stay_within_one_of_the_share(mixture: dict[str, float], batch: int) -> None:
    counts = mixture_counts(mixture, batch)
    assert sum(counts.values()) == batch
    for name, rows in counts.items():
        assert abs(rows - batch * mixture[name] / sum(mixture.values())) < 1


def test_a_share_below_one_row_is_refused() -> None:
    with pytest.raises(UserError, match=r"train.mixture.b = 0.001 is less than a row of a batch of 16"):
        mixture_counts({"a": 1, "b": 0.001}, 16)


def test_batches_that_cannot_keep_captions_apart_are_refused() -> None:
    with pytest.raises(UserError, match=r"takes 5 rows of source 'a', which has only 4 training rows"):
        Sampler([source("a", [[str(i)] for i in range(4)])], [5], 0, STEPS)
    skewed = [["cat"]] * 5 + [[str(i)] for i in range(15)]
    with pytest.raises(UserError, match=r"the caption 'cat' stands on 5 of its 20 training rows: .* leaves 4 rows a batch"):
        Sampler([source("a", skewed)], [5], 0, 81)  # 5 * 5 / 20 - 1 = a quarter of a row a batch: 20.25 rows would wait
    with pytest.raises(UserError, match=r"one picture stands on 3 of its 4 training rows: .* leaves 1 rows a batch"):
        Sampler([source("a", [[str(i)] for i in range(4)], [7, 7, 7, 8])], [2], 0, 9)


def test_a_caption_a_little_too_frequent_only_waits() -> None:
    skewed = source("a", [["cat"]] * 5 + [[str(i)] for i in range(15)])
    drawn, state = run(Sampler([skewed], [5], 0, 80), 80)
    assert all(sum(pick.row < 5 for pick in picks) <= 1 for picks in drawn)
    assert 10 < len(state.cursors[0].backlog) < 35  # a quarter of a row a batch, and the others come round the sooner
    assert all(row < 5 for _, row in state.cursors[0].backlog)


def test_sources_that_leave_each_other_no_caption_are_refused() -> None:
    same = [["x"], ["y"], ["z"], ["u"]]
    sampler = Sampler([source("a", same), source("b", same)], [3, 2], 0, STEPS)
    with pytest.raises(UserError, match=r"source 'b': found no 2 rows"):
        run(sampler, 1)


def test_random_streams_differ_by_purpose_and_key() -> None:
    draws = {stream(*keys).integers(2**60) for keys in [(0, 0, 1), (0, 1, 1), (0, 0, 2), (1, 0, 1), (0, 1, 0)]}
    assert len(draws) == 5
