"""Which rows enter a set and which repeat others, against plain loops over all of them; and what a row costs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from preparekit import ListedSource, candidate, ingested, params_with, picture

from limoe.data.assembly import Assembly
from limoe.data.parts import Plan, Workshop
from limoe.data.prepared import Prepared
from limoe.data.rows import Rows, first_equal
from limoe.data.sources import Candidate, Rejected


@given(st.lists(st.tuples(st.sampled_from([0, 1, 2**64 - 1]), st.sampled_from([0, 5])), max_size=30))
def test_the_first_equal_one_is_that_of_a_loop(halves: list[tuple[int, int]]) -> None:
    hashes = np.array(halves, np.uint64).reshape(-1, 2)
    assert first_equal(hashes).tolist() == [halves.index(one) for one in halves]


ITEMS = st.lists(
    st.tuples(
        st.sampled_from("abcdefgh"),
        st.sampled_from(["train", "val", "test"]),
        st.integers(0, 3),
        st.sampled_from(["good", "good", "blank", "broken", "gone"]),
    ),
    min_size=1,
    max_size=14,
)


def as_item(key: str, split: str, seed: int, state: str) -> Candidate | Rejected:
    if state == "gone":
        return Rejected(key, "listed", "missing-file", "gone")
    image = b"no" if state == "broken" else picture(seed, 4, 4)
    return candidate(key, image, split=split, captions=(" ",) if state == "blank" else (f"caption {key}",))


@settings(max_examples=20)
@given(items=ITEMS, shard_rows=st.integers(1, 5))
def test_a_set_is_that_of_a_plain_loop(
    items: list[tuple[str, str, int, str]], shard_rows: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    items = [("first", "train", 9, "good"), *items]
    seen: set[str] = set()
    splits: dict[str, list[tuple[str, int]]] = {}
    refused = []
    for key, split, seed, state in items:
        reasons = {"blank": "empty-caption", "broken": "undecodable", "gone": "missing-file"}
        if state in reasons or key in seen:
            refused.append((key, reasons.get(state, "duplicate-key")))
        else:
            seen.add(key)
            splits.setdefault(split, []).append((key, seed))
    trained = {seed for _, seed in splits["train"]}

    out = tmp_path_factory.mktemp("plain") / "out"
    params = params_with(f"prepare.shard_rows={shard_rows}", "prepare.tokenizer.vocab_size=100").prepare
    manifest = ingested({"listed": ListedSource([as_item(*item) for item in items])}, params, out)
    prepared = Prepared(out)
    assert {split: prepared.table(split)["key"].to_pylist() for split in prepared.splits} == {
        split: [key for key, _ in rows] for split, rows in splits.items()
    }
    for split, rows in splits.items():
        sizes = [shard["rows"] for shard in manifest["splits"][split]["shards"]]
        assert sizes == [min(shard_rows, len(rows) - start) for start in range(0, len(rows), shard_rows)]
    rejected = pq.read_table(out / "rejected.parquet").to_pylist()
    assert [(row["key"], row["reason"]) for row in rejected] == refused
    assert manifest["rejected"] == Counter(reason for _, reason in refused)
    assert manifest["leakage"] == {
        split: sum(seed in trained for _, seed in rows) for split, rows in splits.items() if split != "train"
    }
    assert manifest["sources"]["listed"]["rows"] == len(seen)


def test_a_row_costs_34_bytes_whatever_it_holds(tmp_path: Path) -> None:
    items: list[Candidate | Rejected] = [
        candidate(f"a key of some length {n}", picture(n), captions=("words " * 50,)) for n in range(40)
    ]
    shop = Workshop(Plan.of(params_with().prepare, tmp_path, tmp_path / "work"), {"listed": ListedSource(items)})
    made = [shop.make(task)[1] for task in shop.tasks()]
    rows = Assembly(shop, shop.tasks(), made)._rows
    held: dict[str, Any] = {name: value for name, value in vars(rows).items() if name != "starts"}
    assert sum(value.nbytes for value in held.values() if isinstance(value, np.ndarray)) == 34 * 40
    assert isinstance(rows, Rows)
    assert held["splits"] == ["train"]  # and nothing else that grows
    assert len(rows.starts) == len(made) + 1
