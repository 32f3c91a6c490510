from __future__ import annotations

import hashlib
import io
import json
import struct
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from preparekit import ListedSource, candidate, ingested, params_with, picture

from limoe.data import shards
from limoe.data.prepared import Prepared
from limoe.data.schema import SCHEMA
from limoe.data.sources import Candidate, Rejected
from limoe.data.verify import BadImage, measure
from limoe.errors import UserError

SMALL = ("prepare.tokenizer.vocab_size=200", "prepare.max_pixels=10000")


def run(tmp_path: Path, items: list[Candidate | Rejected], *overrides: str, name: str = "out") -> dict[str, Any]:
    return ingested({"listed": ListedSource(items)}, params_with(*SMALL, *overrides).prepare, tmp_path / name)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has nothing behind its header."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


BAD_PICTURES = {
    "nothing": (b"", "zero-size", "0 bytes"),
    "text": (b"not a picture", "undecodable", "no picture of a known format (BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP)"),
    "zero-png": (png_header(0, 5), "zero-size", "0 x 5 px"),
    "zero-gif": (b"GIF89a" + struct.pack("<HH", 4, 0) + bytes(20), "zero-size", "4 x 0 px"),
    "bomb": (png_header(60_000, 60_000), "too-many-pixels", None),
    "large": (picture(0, 101, 100), "too-many-pixels", "101 x 100 px, prepare.max_pixels allows 10000"),
    "cut-png": (picture()[:-300], "truncated", None),
    "cut-jpeg": (picture(fmt="JPEG")[:-50], "truncated", None),
    "cut-webp": (picture(fmt="WEBP")[:-20], "truncated", None),
    "broken-png": (picture().replace(b"IDAT", b"IDXX"), "undecodable", None),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 5\n", "undecodable", None),
}


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_a_bad_picture_is_refused_with_its_reason(name: str) -> None:
    image, reason, detail = BAD_PICTURES[name]
    with pytest.raises(BadImage) as caught:
        measure(image, 10_000)
    assert caught.value.reason == reason
    assert detail in (None, caught.value.detail)
    assert "0x" not in caught.value.detail  # no address, which would differ from run to run


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_good_pictures_are_measured(fmt: str) -> None:
    assert measure(picture(1, 23, 11, fmt), 10_000) == (23, 11)


def test_exactly_the_allowed_pixels_are_allowed() -> None:
    assert measure(picture(0, 100, 100), 10_000) == (100, 100)


def test_every_bad_input_is_listed_and_counted(tmp_path: Path) -> None:
    bad = [candidate(name, image) for name, (image, _, _) in BAD_PICTURES.items()]
    items: list[Candidate | Rejected] = [
        candidate("good"),
        *bad,
        candidate("good", captions=("again",)),
        candidate("wordless", captions=()),
        candidate("blank", captions=("fine", " \n")),
        Rejected("gone", "listed", "missing-file", "no such file"),
        candidate("fine"),
    ]
    manifest = run(tmp_path, items)
    reasons = Counter(reason for _, reason, _ in BAD_PICTURES.values())
    reasons |= {"duplicate-key": 1, "empty-caption": 2, "missing-file": 1}
    assert manifest["rejected"] == dict(reasons)
    assert sum(manifest["rejected"].values()) + manifest["splits"]["train"]["rows"] == len(items)

    rejected = pq.read_table(tmp_path / "out" / "rejected.parquet")
    assert rejected.column_names == ["key", "source", "reason", "detail"]
    assert rejected["key"].to_pylist() == [*BAD_PICTURES, "good", "wordless", "blank", "gone"]
    assert rejected.to_pylist()[-1] == {"key": "gone", "source": "listed", "reason": "missing-file", "detail": "no such file"}
    table = Prepared(tmp_path / "out").table("train")
    assert table["key"].to_pylist() == ["good", "fine"]
    assert table["captions"].to_pylist()[0] == ["caption of good"]  # the first row of a key stays


def test_a_record_is_what_the_candidate_was(tmp_path: Path) -> None:
    image = picture(3, 31, 17, "JPEG")
    run(tmp_path, [candidate("a", image, captions=("x", "y"), label="name", split_group="g"), candidate("b", split="val")])
    prepared = Prepared(tmp_path / "out")
    assert prepared.table("train").to_pylist() == [
        {
            "key": "a",
            "source": "listed",
            "split": "train",
            "image": image,
            "width": 31,
            "height": 17,
            "captions": ["x", "y"],
            "split_group": "g",
            "label": "name",
            "sha256": hashlib.sha256(image).hexdigest(),
            "tar": None,
            "offset": None,
            "length": None,
        }
    ]
    assert prepared.table("val")["label"].to_pylist() == [None]
    assert prepared.table("val").schema.equals(SCHEMA)


def test_a_source_that_encoded_a_picture_is_not_asked_again(tmp_path: Path) -> None:
    run(tmp_path, [candidate("a", b"opaque", size=(7, 9))])
    row = Prepared(tmp_path / "out").table("train").to_pylist()[0]
    assert (row["width"], row["height"]) == (7, 9)


def test_the_manifest_agrees_with_the_files(tmp_path: Path) -> None:
    items = [candidate(f"{split}{n}", picture(n), split=split) for n in range(5) for split in ("train", "val")]
    manifest = run(tmp_path, [*items, candidate("other", source="second")], "prepare.shard_rows=2")
    out = tmp_path / "out"
    assert json.loads((out / "manifest.json").read_text()) == manifest
    named = set()
    for split, counts in manifest["splits"].items():
        rows = [pq.read_table(out / shard["file"], partitioning=None) for shard in counts["shards"]]
        assert [shard["rows"] for shard in counts["shards"]] == [len(table) for table in rows]
        assert max(len(table) for table in rows) <= 2
        assert counts["rows"] == sum(len(table) for table in rows)
        assert counts["sources"] == dict(Counter(name for table in rows for name in table["source"].to_pylist()))
        for number, shard in enumerate(counts["shards"]):
            assert shard["file"] == f"{split}-{number:05d}.parquet"
            assert shard["sha256"] == hashlib.sha256((out / shard["file"]).read_bytes()).hexdigest()
            named.add(shard["file"])
    assert {path.name for path in out.iterdir()} == named | {"manifest.json", "rejected.parquet", "tokenizer.json"}
    assert manifest["tokenizer"]["sha256"] == hashlib.sha256((out / "tokenizer.json").read_bytes()).hexdigest()
    assert manifest["tokenizer"]["vocab_size"] == Prepared(out).tokenizer.vocab_size
    assert manifest["sources"]["listed"]["listed"] == 11


def test_pictures_that_training_shares_with_another_split_are_counted(tmp_path: Path) -> None:
    items = [candidate(f"train{n}", picture(n)) for n in range(4)]
    items += [candidate(f"val{n}", picture(n), split="val") for n in (0, 0, 3, 7)]  # three rows, two pictures
    manifest = run(tmp_path, [candidate("a", picture(9), split="test"), *(replace(c, key=str(n)) for n, c in enumerate(items))])
    assert manifest["leakage"] == {"test": 0, "val": 3}


def test_the_content_hash_of_a_source_changes_with_what_it_brings(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [{}, {"captions": ("other",)}, {"split": "val"}, {"image": picture(9)}]
    hashes = []
    for number, change in enumerate([*changes, {}]):
        manifest = run(tmp_path, [candidate("always"), candidate("a", **change)], name=f"out{number}")
        hashes.append(manifest["sources"]["listed"]["sha256"])
    assert len(set(hashes)) == 4
    assert hashes[0] == hashes[-1]


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    items: list[Candidate | Rejected] = [candidate(str(n), picture(n)) for n in range(9)]
    items.append(candidate("bad", b"no"))
    for name in ("one", "two"):
        run(tmp_path, items, "prepare.shard_rows=4", name=name)
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two


def test_rows_wait_in_memory_only_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row group is what waited: by number of rows, and by bytes where pictures are big."""
    monkeypatch.setattr(shards, "BUFFER_ROWS", 3)
    run(tmp_path, [candidate(str(n), picture(n)) for n in range(8)], name="rows")
    metadata = pq.read_metadata(tmp_path / "rows" / "train-00000.parquet")
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [3, 3, 2]
    monkeypatch.setattr(shards, "BUFFER_BYTES", 2 * len(picture()))
    run(tmp_path, [candidate(str(n), picture()) for n in range(6)], name="bytes")
    metadata = pq.read_metadata(tmp_path / "bytes" / "train-00000.parquet")
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [2, 2, 2]


def test_nothing_left_to_train_on_says_why(tmp_path: Path) -> None:
    items = [candidate("a", b"no"), candidate("b", b"no"), candidate("c", captions=("",)), candidate("held out", split="val")]
    with pytest.raises(
        UserError, match=r"nothing is left to train on: 3 inputs were rejected, 2 of them as undecodable \(first a: "
    ):
        run(tmp_path, items)
    with pytest.raises(UserError, match=r"nothing is left to train on: the sources .* yield no training rows"):
        run(tmp_path, [candidate("held out", split="val")], name="empty")


def test_the_tokenizer_has_seen_the_training_captions_alone(tmp_path: Path) -> None:
    run(tmp_path, [candidate("a", captions=("ß",)), candidate("b", captions=("ñ",), split="val")])
    tokenizer = Prepared(tmp_path / "out").tokenizer
    seen, unseen = tokenizer.encode(["ß", "ñ"], 8)
    assert tokenizer.unk_id not in seen
    assert tokenizer.unk_id in unseen


def test_a_transparent_or_palette_picture_is_a_picture(tmp_path: Path) -> None:
    for number, mode in enumerate(("RGBA", "LA", "P", "L", "1", "I;16")):
        encoded = io.BytesIO()
        image = Image.fromarray(np.arange(30, dtype=np.uint16).reshape(5, 6)) if mode == "I;16" else Image.new(mode, (6, 5))
        image.save(encoded, "PNG")
        assert measure(encoded.getvalue(), 100) == (6, 5), number
