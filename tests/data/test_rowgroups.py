"""Row groups of a prepared set: which are read, when, and what of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limoe.config import MachineParams, TowerParams, TrainParams
from limoe.data.loader import PairLoader
from limoe.data.prepared import Prepared, RowGroupPlace
from limoe.data.rowgroups import COLUMNS, RowGroup, open_sources
from limoe.data.schema import SCHEMA, TRAIN
from limoe.errors import UserError
from limoe.paramsfile import read_yaml

POOL = ThreadPoolExecutor(1)
DEFAULTS = read_yaml(Path(__file__).parents[2] / "params.yaml")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The row groups that are read, as they are read."""
    done: list[tuple[str, int]] = []
    read_group = Prepared.read_group

    def noted(self: Prepared, place: RowGroupPlace, *what: Any) -> pa.Table:
        done.append((place.file, place.number))
        return read_group(self, place, *what)

    monkeypatch.setattr(Prepared, "read_group", noted)
    return done


def test_rows_are_those_of_the_table_whatever_shares_their_row_group(
    make_prepared: Callable[..., Path], make_row: Callable[..., dict[str, Any]]
) -> None:
    rows = [make_row("ab"[i % 3 // 2], i, [f"Name  {i}", f"alias {i}"], label="x" if i % 2 else None) for i in range(20)]
    sources = open_sources(Prepared(make_prepared(rows)), ["a", "b"], 1000, 0, POOL)
    for source in sources:
        mine = [row for row in rows if row["source"] == source.name]
        assert source.order.rows == len(mine)
        source.hold(range(3))
        for index, expected in enumerate(mine):
            found = source.row(index)
            assert (found.key, found.image, found.captions) == (expected["key"], expected["image"], expected["captions"])
            assert found.labelled == (expected["label"] is not None)
            name = found.captions[0].split()[1]
            assert found.marks == {f"name {name}", f"alias {name}", bytes.fromhex(expected["sha256"])}
        assert source.fetch([3, 1]) == {1: source.row(1), 3: source.row(3)}


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.lists(st.text(max_size=5), min_size=1, max_size=3), min_size=1, max_size=9),
    cuts=st.lists(st.integers(0, 9), max_size=2),
)
def test_rows_are_those_that_arrow_gives_in_however_many_slices_a_table_lies(texts: list[list[str]], cuts: list[int]) -> None:
    rows = [
        {
            "key": "ä\0"[: i % 3] + str(i),
            "source": "s",
            "image": bytes(range(i)),
            "captions": captions,
            "label": [None, "", "x"][i % 3],
            "sha256": f"{i:064x}",
        }
        for i, captions in enumerate(texts)
    ]
    whole = pa.Table.from_pylist(rows, schema=pa.schema([SCHEMA.field(name) for name in COLUMNS]))
    ends = sorted({0, len(rows), *(min(cut, len(rows)) for cut in cuts)})
    for table in (whole, pa.concat_tables([whole.slice(a, b - a) for a, b in pairwise(ends)]), whole.slice(1), whole.slice(0, 0)):
        group = RowGroup(table)
        assert len(group) == len(table)
        for index, expected in enumerate(table.to_pylist()):
            found = group[index]
            assert (found.key, found.image, found.captions) == tuple(expected[name] for name in ("key", "image", "captions"))
            assert found.labelled == (expected["label"] is not None)
            assert bytes.fromhex(expected["sha256"]) in found.marks


def test_a_shard_that_another_program_has_written_again_has_the_same_rows(
    make_prepared: Callable[..., Path], make_row: Callable[..., dict[str, Any]]
) -> None:
    root = make_prepared([make_row("a", i, [f"name {i}", "ä" * i]) for i in range(5)])
    expected = [open_sources(Prepared(root), ["a"], 1000, 0, POOL)[0].fetch(range(5))]
    for shard in root.glob("*.parquet"):
        table = pq.read_table(shard, partitioning=None)
        large = {
            pa.string(): pa.large_string(),
            pa.binary(): pa.large_binary(),
            pa.list_(pa.string()): pa.large_list(pa.large_string()),
        }
        fields = [pa.field(field.name, large.get(field.type, field.type)) for field in table.schema]
        pq.write_table(table.cast(pa.schema(fields)), shard)
    assert [open_sources(Prepared(root), ["a"], 1000, 0, POOL)[0].fetch(range(5))] == expected


def test_a_source_s_rows_are_counted_from_footers_and_only_mixed_row_groups_are_looked_into(
    make_prepared: Callable[..., Path], make_row: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_prepared([make_row("a" if i < 17 else "b", i, [str(i)]) for i in range(30)])
    looked: list[int] = []
    read = pq.ParquetFile.read_row_group

    def noted(self: pq.ParquetFile, group: int, columns: list[str], **options: Any) -> pa.Table:
        assert columns == ["source"]
        looked.append(group)
        return read(self, group, columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", noted)
    found = Prepared(root).row_groups(TRAIN)
    assert [place.sources for place in found] == [{"a": 7}, {"a": 7}, {"a": 3, "b": 4}, {"b": 7}, {"b": 2}]
    assert [place.file for place in found] == [f"train-0000{i}.parquet" for i in range(5)]
    assert len(looked) == 1


def test_held_groups_are_read_once_in_the_order_asked_for_and_others_let_go(
    make_prepared: Callable[..., Path], make_row: Callable[..., dict[str, Any]], reads: list[tuple[str, int]]
) -> None:
    root = make_prepared([make_row("a", i, [str(i)]) for i in range(28)])
    (source,) = open_sources(Prepared(root), ["a"], 7, 0, POOL)
    assert reads == []
    source.hold([2, 0])
    assert [source.row(row).key for row in (0, 15, 1)] == ["a/0", "a/15", "a/1"]
    source.hold([0, 3])
    assert source.row(27).key == "a/27"
    assert [file for file, _ in reads] == [f"train-0000{i}.parquet" for i in (2, 0, 3)]
    assert set(source.fetch([14, 20, 8, 15])) == {14, 20, 8, 15}
    assert [file for file, _ in reads[3:]] == ["train-00002.parquet", "train-00001.parquet"]


def test_a_row_group_that_breaks_later_is_the_users_to_mend(
    make_prepared: Callable[..., Path], make_row: Callable[..., dict[str, Any]]
) -> None:
    root = make_prepared([make_row("a", i, [str(i)]) for i in range(28)])
    (source,) = open_sources(Prepared(root), ["a"], 7, 0, POOL)
    (root / "train-00001.parquet").write_bytes(b"PAR1")
    (root / "train-00002.parquet").unlink()
    source.hold([1, 2])
    with pytest.raises(UserError, match=r"train-00001.parquet is broken .*; run `limoe prepare` again"):
        source.row(7)
    with pytest.raises(UserError, match=r"a shard that manifest.json lists is missing"):
        source.row(14)


def test_ten_million_rows_begin_with_the_row_groups_of_a_window(
    make_prepared: Callable[..., Path], make_row: Callable[..., dict[str, Any]], reads: list[tuple[str, int]]
) -> None:
    """One shard of 20,000 tiny rows under 500 names: nothing that is done twice is remembered, so it costs what others would."""
    root = make_prepared([make_row("a", 0, ["a word"])])
    rows, image = 20_000, make_row("a", 1, ["x"])["image"]
    columns: dict[str, Any] = {name: pa.nulls(rows, field.type) for name, field in zip(SCHEMA.names, SCHEMA, strict=True)}
    columns |= {"key": [str(i) for i in range(rows)], "captions": [[f"word {i}"] for i in range(rows)], "source": ["a"] * rows}
    columns |= {"image": [image] * rows, "sha256": [f"{i:064x}" for i in range(rows)]}
    table = pa.table({name: columns[name] for name in SCHEMA.names}, pa.schema([field.with_nullable(True) for field in SCHEMA]))
    pq.write_table(table, root / "train-00000.parquet", row_group_size=2000)
    for number in range(1, 500):
        os.link(root / "train-00000.parquet", root / f"train-{number:05d}.parquet")
    shards = [{"file": f"train-{number:05d}.parquet", "rows": rows} for number in range(500)]
    split = {"rows": 500 * rows, "shards": shards, "sources": {"a": 500 * rows}}
    (root / "manifest.json").write_text(json.dumps({"version": 2, "splits": {TRAIN: split}}))
    train = DEFAULTS["train"] | {"batch": 64, "mixture": {"a": 1}, "shuffle_rows": 12_000}
    machine = MachineParams.model_validate(DEFAULTS["machine"])
    tower = TowerParams.model_validate(DEFAULTS["model"]["tower"])
    with closing(PairLoader(Prepared(root), tower, TrainParams.model_validate(train), machine)) as loader:
        assert len(next(loader).pairs) == 64
        assert len(set(reads)) <= 7 + 1  # those of the first window, and the first one of the next
        assert loader._sampler.sources[0].order.rows == 10_000_000
