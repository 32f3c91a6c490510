from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from limoe.data.prepared import Prepared
from limoe.errors import UserError

Make = Callable[..., Any]


@pytest.fixture
def root(make_prepared: Make, make_row: Make) -> Path:
    """Ten training rows in shards of four, and two of `val`."""
    rows = [make_row("emoji", number, [f"picture {number}"]) for number in range(10)]
    rows += [make_row("emoji", number, ["held out"], split="val") for number in (10, 11)]
    folder: Path = make_prepared(rows, shard_rows=4)
    return folder


def test_rows_come_in_the_order_of_the_shards(root: Path) -> None:
    table = Prepared(root).table("train")
    assert table["key"].to_pylist() == [f"emoji/{number}" for number in range(10)]
    assert table["captions"].to_pylist()[9] == ["picture 9"]


def test_only_the_asked_columns_are_read(root: Path) -> None:
    assert Prepared(root).table("val", ["label", "key"]).column_names == ["label", "key"]


def test_it_tells_its_splits_and_their_counts(root: Path) -> None:
    prepared = Prepared(root)
    assert prepared.splits == ("train", "val")
    assert (prepared.rows("train"), prepared.rows("val")) == (10, 2)
    assert prepared.sources("val") == {"emoji": 2}


def test_its_hash_is_the_manifests(root: Path) -> None:
    assert Prepared(root).hash == hashlib.sha256((root / "manifest.json").read_bytes()).hexdigest()


def test_the_tokenizer_is_opened_once(root: Path) -> None:
    prepared = Prepared(root)
    assert prepared.tokenizer is prepared.tokenizer
    assert prepared.tokenizer.encode(["picture"], 8)[0][-1] == prepared.tokenizer.eos_id


def test_an_unknown_split_names_those_there_are(root: Path) -> None:
    for ask in (Prepared(root).table, Prepared(root).rows, Prepared(root).sources):
        with pytest.raises(UserError, match=r"no split 'test' in this prepared set; it has train, val"):
            ask("test")


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"manifest\.json is missing\); run `limoe prepare` first"):
        Prepared(tmp_path / "nowhere")


@pytest.mark.parametrize("content", ["[]", json.dumps({"version": 0, "splits": {}}), "{"])
def test_a_manifest_of_another_kind_is_refused(root: Path, content: str) -> None:
    (root / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=r"manifest\.json"):
        Prepared(root)


def test_a_machine_without_memory_is_no_broken_shard(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise pa.ArrowMemoryError("malloc of size 64 failed")

    monkeypatch.setattr("pyarrow.parquet.read_table", full)
    with pytest.raises(MemoryError):
        Prepared(root).table("train")


def test_a_missing_or_broken_shard_is_the_users_to_repair(root: Path) -> None:
    (root / "train-00001.parquet").write_bytes(b"PAR1 nonsense PAR1")
    with pytest.raises(UserError, match="a shard of 'train' is broken"):
        Prepared(root).table("train")
    whole = (root / "train-00000.parquet").read_bytes()
    half = len(whole) // 2
    for damaged in (whole[:half], whole[:4] + bytes(half) + whole[4 + half :], b""):
        (root / "train-00001.parquet").write_bytes(damaged)
        with pytest.raises(UserError, match=r"a shard of 'train' is broken .*; run `limoe prepare` again"):
            Prepared(root).table("train")
    (root / "train-00001.parquet").unlink()
    with pytest.raises(UserError, match="is missing"):
        Prepared(root).table("train")
