"""Planted copies of pictures: which rows go, for which, and which stay."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from picturekit import photo
from PIL import Image
from preparekit import ListedSource, candidate, ingested, params_with

from limoe.data.duplicates import hash_encoded
from limoe.data.ingest import ingest
from limoe.data.parts import Plan, Workshop
from limoe.data.prepared import Prepared
from limoe.data.repeats import Evaluated
from limoe.data.sources import Candidate
from limoe.data.workers import Here
from limoe.errors import UserError


def encoded(seed: int, fmt: str = "PNG", quality: int = 90) -> bytes:
    content = io.BytesIO()
    photo(seed).save(content, fmt, quality=quality)
    return content.getvalue()


ROWS = {  # key: (split, picture); a copy is "near" another's
    "a": ("train", encoded(0)),
    "b": ("train", encoded(1)),
    "a again": ("train", encoded(0)),
    "b near": ("train", encoded(1, "JPEG", 50)),
    "in val": ("train", encoded(2)),
    "near val": ("train", encoded(3, "JPEG", 50)),
    "v2": ("val", encoded(2)),
    "v3": ("val", encoded(3)),
    "v3 again": ("val", encoded(3)),
    "t3 near": ("test", encoded(3, "WEBP", 80)),
    "e": ("train", encoded(4)),
    "f near": ("train", encoded(5, "JPEG", 75)),
    "ve": ("val", encoded(4)),
    "plain": ("train", b""),
    "plain too": ("train", b""),
}
PLAIN = {"plain": (255, 255, 255), "plain too": (255, 250, 255)}


def items() -> list[Candidate]:
    found = []
    for key, (split, image) in ROWS.items():
        if key in PLAIN:
            content = io.BytesIO()
            Image.new("RGB", (64, 64), PLAIN[key]).save(content, "PNG")
            image = content.getvalue()
        found.append(candidate(key, image, split=split))
    return found


def evaluated() -> Evaluated:
    images = [encoded(4), encoded(5)]
    digests = [hashlib.sha256(image).hexdigest() for image in images]
    return Evaluated.of(["own/e.png", "own/f.png"], digests, np.array([hash_encoded(image) for image in images], np.uint64))


def gone(tmp_path: Path, *overrides: str, against: Evaluated | None = None) -> dict[str, tuple[str, str]]:
    """Key to (reason, detail) of each row that is dropped."""
    changes = [f"prepare.duplicates.{override}" for override in overrides]
    params = params_with("prepare.tokenizer.vocab_size=200", *changes).prepare
    out = tmp_path / "out"
    out.mkdir()
    shop = Workshop(Plan.of(params, tmp_path, tmp_path / "work"), {"listed": ListedSource(items())})
    manifest = ingest(shop, Here(), {}, out, against)
    rejected = pq.read_table(out / "rejected.parquet").to_pylist()
    left = {key for split in manifest["splits"] for key in Prepared(out).table(split, ["key"])["key"].to_pylist()}
    found = {row["key"]: (row["reason"], row["detail"]) for row in rejected}
    assert left == ROWS.keys() - found.keys()
    assert sum(manifest["rejected"].values()) == len(found)
    return found


AGAINST = "prepare.duplicates={drop: leaked, radius: null, against: [own]}"
BYTES = {
    "in val": ("duplicate-picture", "byte for byte that of v2"),
    "e": ("duplicate-picture", "byte for byte that of ve"),
}


def test_nothing_goes_unless_asked_for(tmp_path: Path) -> None:
    assert gone(tmp_path) == {}


def test_leaked_rows_go_from_training_alone(tmp_path: Path) -> None:
    assert gone(tmp_path, "drop=leaked") == BYTES


def test_leaked_rows_that_nearly_are_another_split_s_go_too(tmp_path: Path) -> None:
    assert gone(tmp_path, "drop=leaked", "radius=6") == BYTES | {"near val": ("near-duplicate", "nearly that of v3")}


def test_all_rows_that_repeat_one_that_stays_go(tmp_path: Path) -> None:
    assert gone(tmp_path, "drop=all", "radius=6") == BYTES | {
        "a again": ("duplicate-picture", "byte for byte that of a"),
        "b near": ("near-duplicate", "nearly that of b"),
        "near val": ("near-duplicate", "nearly that of v3"),
        "v3 again": ("duplicate-picture", "byte for byte that of v3"),
        "t3 near": ("near-duplicate", "nearly that of v3"),
    }


def test_evaluated_pictures_are_not_trained_on(tmp_path: Path) -> None:
    assert gone(tmp_path, "drop=leaked", "radius=6", against=evaluated()) == {
        "in val": BYTES["in val"],
        "near val": ("near-duplicate", "nearly that of v3"),
        "e": ("evaluated-picture", "byte for byte that of own/e.png"),
        "f near": ("near-evaluated", "nearly that of own/f.png"),
    }


def test_parts_that_are_done_are_not_hashed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = params_with("prepare.tokenizer.vocab_size=200", "prepare.duplicates.drop=all", "prepare.duplicates.radius=6").prepare
    first = ingested({"listed": ListedSource(items())}, params, tmp_path / "first", tmp_path / "work")
    monkeypatch.delattr("limoe.data.parts.hash_encoded")
    assert ingested({"listed": ListedSource(items())}, params, tmp_path / "second", tmp_path / "work") == first


@pytest.mark.parametrize(
    "overrides,sentence",
    [
        (["prepare.duplicates.radius=6"], "against and radius are of no use with drop: none"),
        (["prepare.pictures.encode=webp", AGAINST], "needs a duplicates.radius where pictures are encoded anew"),
        ([AGAINST], "'own' is none of evaluate.sets, which are none"),
    ],
)
def test_settings_that_cannot_be_are_named(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        params_with(*overrides)
