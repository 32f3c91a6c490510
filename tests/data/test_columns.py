"""Columns that are found by their usual names: what they hold need not be what their name says, and they can be left alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from layoutkit import tar
from preparekit import picture

from limoe.config import SetParams
from limoe.data.sources import Candidate, Rejected, candidates, open_set
from limoe.errors import UserError


def lay(root: Path, kind: str, rows: list[dict[str, Any]]) -> str:
    """Rows, each with a picture of its own, as one file of this kind."""
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist([{"image": picture(n), **row} for n, row in enumerate(rows)]), root / "t.parquet")
        return "t.parquet"
    if kind == "webdataset":
        samples = {str(n): {"png": picture(n), "json": json.dumps(row).encode()} for n, row in enumerate(rows)}
        tar(root, samples, name="t")
        return "t.tar"
    for n in range(len(rows)):
        (root / f"{n}.png").write_bytes(picture(n))
    (root / "t.jsonl").write_text("\n".join(json.dumps({"image": f"{n}.png", **row}) for n, row in enumerate(rows)))
    return "t.jsonl"


def read(root: Path, path: str, **columns: Any) -> tuple[list[Candidate], list[Rejected]]:
    params = {"path": path} | ({"columns": columns} if columns else {})
    found = list(candidates(open_set("mine", SetParams.model_validate(params), root)))
    return [c for c in found if isinstance(c, Candidate)], [r for r in found if isinstance(r, Rejected)]


@pytest.mark.parametrize("kind", ["parquet", "table", "webdataset"])
@pytest.mark.parametrize("label", [["cat", "dog"], 0.5, True, {"id": 1}])
def test_a_label_that_nobody_named_and_that_is_no_word_is_left_alone(tmp_path: Path, kind: str, label: Any) -> None:
    path = lay(tmp_path, kind, [{"caption": "a cat", "label": label}])
    found, rejected = read(tmp_path, path)
    assert ([(c.captions, c.label) for c in found], rejected) == ([(("a cat",), None)], [])


@pytest.mark.parametrize("kind", ["parquet", "table", "webdataset"])
def test_a_label_that_nobody_named_still_counts_if_it_is_a_word(tmp_path: Path, kind: str) -> None:
    found, _ = read(tmp_path, lay(tmp_path, kind, [{"caption": "a cat", "label": "cat"}, {"caption": "a dog", "label": "dog"}]))
    assert [c.label for c in found] == ["cat", "dog"]


@pytest.mark.parametrize("kind", ["parquet", "table", "webdataset"])
def test_without_a_caption_the_label_has_to_be_a_word(tmp_path: Path, kind: str) -> None:
    path = lay(tmp_path, kind, [{"caption": None, "label": 0.5}, {"caption": "a dog", "label": 0.5}])
    found, rejected = read(tmp_path, path)
    assert [c.captions for c in found] == [("a dog",)]
    assert [(r.reason, "label must be text, is 0.5" in r.detail) for r in rejected] == [("bad-row", True)]


@pytest.mark.parametrize("kind", ["parquet", "table"])
def test_a_label_that_is_named_has_to_be_a_word(tmp_path: Path, kind: str) -> None:
    found, rejected = read(tmp_path, lay(tmp_path, kind, [{"caption": "a cat", "label": 0.5}]), label="label")
    assert (found, [r.reason for r in rejected]) == ([], ["bad-row"])


@pytest.mark.parametrize("kind", ["parquet", "table"])
def test_false_leaves_a_column_alone(tmp_path: Path, kind: str) -> None:
    rows = [{"caption": f"cat {n}", "label": "x", "split": "holdout", "group": str(n % 2)} for n in range(40)]
    path = lay(tmp_path, kind, rows)
    assert {r.reason for r in read(tmp_path, path)[1]} == {"bad-split"}
    found, rejected = read(tmp_path, path, label=False, split=False, group=False)
    assert (len(found), rejected) == (40, [])
    assert {c.label for c in found} == {None}
    assert len({c.split_group for c in found}) == 40
    assert {c.split for c in found} == {"train", "val", "test"}


def test_false_for_the_label_leaves_nothing_to_say(tmp_path: Path) -> None:
    path = lay(tmp_path, "parquet", [{"label": "cat"}])
    with pytest.raises(UserError, match="none is known to hold captions or labels"):
        read(tmp_path, path, label=False)


@pytest.mark.parametrize("columns", [{"image": False}, {"caption": False}, {"label": True}])
def test_other_columns_cannot_be_left_alone(columns: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="valid string"):
        SetParams.model_validate({"path": "x", "columns": columns})


@pytest.mark.parametrize("key, value", [("columns", {"caption": "title"}), ("images", ".")])
def test_a_key_that_the_kind_found_has_no_use_for_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.png").write_bytes(picture(0))
    (tmp_path / "set" / "a.txt").write_text("a cat")
    with pytest.raises(UserError, match=rf"^set is read as sidecar: {key} is of no use to the kind sidecar, but to parquet"):
        open_set("mine", SetParams.model_validate({"path": "set", key: value}), tmp_path)
