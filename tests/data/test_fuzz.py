"""Damaged files crash nothing; `python -m benchmarks.fuzz` reads thousands of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import fuzz
from benchmarks.damage import seeds

FILES = {
    "picture": 1200,
    **{f"evaluate {kind}": 150 for kind in ("webdataset", "parquet", "coco", "flickr")},
    **{f"prepare {kind}": 100 for kind in ("webdataset", "parquet", "coco", "flickr", "csv", "jsonl")},
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "caption", "file_name", "split"]), inner),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return fuzz.readers(tmp_path_factory.mktemp("fuzzed"))


@pytest.mark.parametrize("kind", FILES)
def test_whole_files_are_taken(kind: str, readers: Any) -> None:
    assert {readers[kind](content) for content in fuzz.files_for(kind)} == {"taken"}


@pytest.mark.parametrize("kind", FILES)
def test_damaged_files_crash_nothing(kind: str, readers: Any) -> None:
    counts, finds = fuzz.fuzz(readers[kind], fuzz.files_for(kind), FILES[kind], seed=1)
    assert [how for _, how in finds] == []
    assert counts.total() == FILES[kind]
    assert counts["taken"] or kind.endswith("coco"), "all were damaged beyond reading, as only JSON may be"


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) below a JSON value."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [(value, key) for key in keys] + [place for key in keys for place in places(value[key])]


@settings(deadline=None, max_examples=40, derandomize=True)
@given(data=st.data())
def test_json_of_another_form_crashes_nothing(data: st.DataObject, readers: Any) -> None:
    (whole,) = seeds()["coco"]
    told = json.loads(whole)
    container, key = data.draw(st.sampled_from(places(told)))
    container[key] = data.draw(JSON)
    for reader in ("evaluate coco", "prepare coco"):
        assert readers[reader](json.dumps(told).encode()) in ("taken", "UserError")


@pytest.mark.parametrize("content", [b"[" * 200_000, b"{" * 10, b"\xff\xfe{}", b"null", b"[1]", b'{"images": [1]}'])
def test_json_that_is_hard_to_read_is_the_users_mistake(content: bytes, readers: Any) -> None:
    assert [readers[reader](content) for reader in ("evaluate coco", "prepare coco")] == ["UserError"] * 2


def test_a_find_is_kept_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def read(content: bytes) -> str:
        raise KeyError(len(content) // 10**9)

    monkeypatch.setattr(fuzz, "readers", lambda folder: {"picture": read})
    assert fuzz.main(["--files", "2", "--keep", str(tmp_path / "finds")]) == 1
    assert "2 finds" in capsys.readouterr().out
    assert [path.name for path in sorted((tmp_path / "finds").iterdir())] == ["picture-0000", "picture-0001"]


@pytest.mark.parametrize("reader", ["evaluate parquet", "prepare parquet"])
def test_a_column_whose_name_is_no_text_is_the_users_mistake(reader: str, readers: Any) -> None:
    """pyarrow raises a UnicodeDecodeError only when the file's columns are listed."""
    (whole,) = seeds()["parquet"]
    assert readers[reader](whole.replace(b"element", b"elemen\xe8")) == "UserError"
