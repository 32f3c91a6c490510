"""The sampler's promises, as properties."""

from __future__ import annotations

import json
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rowskit import source_rows

from limoe.data.rowgroups import RowGroup
from limoe.data.sampler import Pick, Sampler, State
from limoe.errors import UserError

WORDS = [f"w{i}" for i in range(40)]
STEPS = 100
ONE = 1000  # rows: a window that holds every source here


def sampler_of(seed: int, steps: int, counts: list[int], *sources: dict[str, Any]) -> Sampler:
    """Of sources as `source_rows` takes them."""
    return Sampler([source_rows(seed=seed, **its) for its in sources], counts, seed, steps)


def source(name: str, captions: list[list[str]], pictures: list[int] | None = None, **cut: Any) -> dict[str, Any]:
    return {"name": name, "captions": captions, "pictures": pictures} | cut


@st.composite
def samplers(draw: st.DrawFn) -> Callable[[], Sampler]:
    """One or two sources whose captions repeat, within and across sources, in row groups and windows of any size."""
    sources, counts = [], []
    for name in ("a", "b")[: draw(st.integers(1, 2))]:
        rows = draw(st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=3), min_size=8, max_size=40))
        pictures = draw(st.lists(st.integers(0, 30), min_size=len(rows), max_size=len(rows)))
        most = max(Counter([*pictures, *(word for words in rows for word in set(words))]).values())
        assume(len(rows) // most >= 2)
        sources.append(source(name, rows, pictures, group=draw(st.integers(1, 12)), window=draw(st.integers(1, 50))))
        counts.append(draw(st.integers(1, max(1, len(rows) // most // 4))))
    seed = draw(st.integers(0, 5))
    return lambda: sampler_of(seed, STEPS, counts, *sources)


def run(sampler: Sampler, batches: int) -> tuple[list[list[Pick]], State]:
    state, drawn = sampler.start, []
    for _ in range(batches):
        picks, state = sampler.draw(state)
        drawn.append(picks)
    return drawn, state


@given(samplers())
@settings(max_examples=60, deadline=None)
def test_no_two_records_of_a_batch_share_a_caption_or_picture_and_counts_are_exact(fresh: Callable[[], Sampler]) -> None:
    sampler = fresh()
    for picks in run(sampler, 12)[0]:
        marks = [mark for pick in picks for mark in pick.row.marks]
        assert len(marks) == len(set(marks))
        assert [sum(pick.source == s for pick in picks) for s in range(len(sampler.counts))] == list(sampler.counts)


@given(samplers())
@settings(max_examples=60, deadline=None)
def test_each_row_comes_exactly_once_an_epoch(fresh: Callable[[], Sampler]) -> None:
    sampler = fresh()
    batches = 3 * max(s.order.rows // c for s, c in zip(sampler.sources, sampler.counts, strict=True))
    drawn, state = run(sampler, batches)
    for number, (its, cursor) in enumerate(zip(sampler.sources, state.cursors, strict=True)):
        given_out = [(pick.epoch, pick.index) for picks in drawn for pick in picks if pick.source == number]
        ledger = Counter(given_out) + Counter(cursor.backlog)
        assert max(ledger.values()) == 1
        epochs = cursor.drawn // its.order.rows
        for epoch in range(epochs):
            assert sorted(row for e, row in ledger if e == epoch) == list(range(its.order.rows))
        assert len(ledger) == cursor.drawn


@given(samplers(), st.integers(0, 15))
@settings(max_examples=60, deadline=None)
def test_resuming_from_json_continues_as_if_nothing_had_happened(fresh: Callable[[], Sampler], stop: int) -> None:
    undisturbed, _ = run(fresh(), stop + 5)
    _, state = run(fresh(), stop)
    state = State.from_dict(json.loads(json.dumps(state.to_dict())))
    resumed = fresh()
    for expected in undisturbed[stop:]:
        picks, state = resumed.draw(state)
        assert picks == expected


def test_each_epoch_has_its_own_order_and_captions_and_seeds_differ() -> None:
    many = source("a", [[f"{i} one", f"{i} two", f"{i} three"] for i in range(200)])
    drawn, _ = run(sampler_of(0, STEPS, [200], many), 2)
    orders = [[pick.index for pick in picks] for picks in drawn]
    captions = [{pick.index: pick.caption for pick in picks} for picks in drawn]
    assert orders[0] != orders[1]
    assert captions[0] != captions[1]
    assert all(50 < Counter(c.values())[k] < 85 for c in captions for k in range(3))  # 200 / 3, five sigma
    assert run(sampler_of(1, STEPS, [200], many), 1)[0][0] != drawn[0]


def test_a_source_s_order_does_not_depend_on_the_other_sources() -> None:
    a = source("a", [[f"a{i}"] for i in range(30)])
    b = source("b", [[f"b{i}"] for i in range(30)])
    alone = [[p.index for p in picks] for picks in run(sampler_of(7, STEPS, [4], b), 6)[0]]
    both = [[p.index for p in picks if p.source == 1] for picks in run(sampler_of(7, STEPS, [3, 4], a, b), 6)[0]]
    assert [set(rows) for rows in alone] == [set(rows) for rows in both]


def test_rows_that_wait_do_not_fall_behind() -> None:
    rows = [[f"{i // 2}"] for i in range(60)]  # each caption twice
    drawn, _ = run(sampler_of(0, STEPS, [20], source("a", rows)), 30)
    rows_of_epoch = Counter(pick.epoch for picks in drawn for pick in picks)
    assert all(rows_of_epoch[epoch] == 60 for epoch in range(8))  # of the ten that were drawn


def test_captions_are_compared_as_the_tokenizer_folds_them() -> None:
    cats = source("a", [["A  “Cat” "], ['a "cat"'], ["dog"], ["bird"]])
    for picks in run(sampler_of(0, STEPS, [2], cats), 20)[0]:
        assert {pick.index for pick in picks} != {0, 1}


def test_batches_that_cannot_keep_captions_apart_are_refused() -> None:
    with pytest.raises(UserError, match=r"takes 5 rows of source 'a', which has only 4 training rows"):
        sampler_of(0, STEPS, [5], source("a", [[str(i)] for i in range(4)]))
    skewed = [["cat"]] * 5 + [[str(i)] for i in range(15)]
    with pytest.raises(UserError, match=r"the caption 'cat' stands on 5 of its 20 training rows: .* leaves 4 rows a batch"):
        sampler_of(0, 81, [5], source("a", skewed))  # 5 * 5 / 20 - 1 = a quarter of a row a batch: 20.25 rows would wait
    with pytest.raises(UserError, match=r"one picture stands on 3 of its 4 training rows: .* leaves 1 rows a batch"):
        sampler_of(0, 9, [2], source("a", [[str(i)] for i in range(4)], [7, 7, 7, 8]))


def test_a_caption_a_little_too_frequent_only_waits() -> None:
    skewed = source("a", [["cat"]] * 5 + [[str(i)] for i in range(15)])
    drawn, state = run(sampler_of(0, 80, [5], skewed), 80)
    assert all(sum(pick.index < 5 for pick in picks) <= 1 for picks in drawn)
    assert 10 < len(state.cursors[0].backlog) < 35  # a quarter of a row a batch, and the others come round the sooner
    assert all(row < 5 for _, row in state.cursors[0].backlog)


def test_sources_that_leave_each_other_no_caption_are_refused() -> None:
    same = [["x"], ["y"], ["z"], ["u"]]
    sampler = sampler_of(0, STEPS, [3, 2], source("a", same), source("b", same))
    with pytest.raises(UserError, match=r"source 'b': found no 2 rows"):
        run(sampler, 1)


def test_a_caption_too_frequent_for_a_source_of_many_windows_is_refused_when_its_backlog_has_outgrown_two() -> None:
    skewed = source("a", [["cat"] if i % 2 else [str(i)] for i in range(400)], group=4, window=20)
    sampler = sampler_of(0, STEPS, [10], skewed)  # of 10 rows 5 are cats, and one finds room
    with pytest.raises(UserError, match=r"source 'a': found no 10 .*; the caption 'cat' stands on (\d+) of \1 rows that wait"):
        run(sampler, STEPS)


def test_row_groups_larger_than_a_window_are_windows() -> None:
    """A class a row group, and windows asked for that are smaller: whoever needs three classes goes through two groups first."""
    classes = [[f"class {i // 40}"] for i in range(400)]
    drawn, _ = run(sampler_of(0, STEPS, [3], source("a", classes, group=40, window=1)), 100)
    assert all(len({pick.index // 40 for pick in picks}) == 3 for picks in drawn)
    skewed = [["cat"]] * 5 + [[str(i)] for i in range(15)]
    with pytest.raises(UserError, match=r"the caption 'cat' stands on 5 of its 20 training rows"):
        sampler_of(0, 81, [5], source("a", skewed, group=20, window=5))  # one group is one window: known beforehand


def test_few_row_groups_are_in_memory_however_many_rows_wait() -> None:
    rows = [[f"{i // 2}"] for i in range(4000)]
    sampler = sampler_of(0, 10_000, [16], source("a", rows, group=5, window=50))
    alive: weakref.WeakSet[RowGroup] = weakref.WeakSet()
    (its,) = sampler.sources
    read = its._read

    def noted(group: int) -> RowGroup:
        made = read(group)
        alive.add(made)
        return made

    its._read = noted  # type: ignore[method-assign]
    state, most, waited = sampler.start, 0, 0
    for _ in range(260):  # 4160 rows
        _, state = sampler.draw(state)
        most, waited = max(most, len(alive)), max(waited, len(state.cursors[0].backlog))
    assert waited > 0
    assert 10 <= most <= 2 * 11 + 1  # of 800: two windows of ten, each to within one; one that the thread still has in hand
