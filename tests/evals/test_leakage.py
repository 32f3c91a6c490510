"""Planted copies of training pictures are found, all of them and nothing else, in splits and in sets of the user's own."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from evalkit import write_prepared
from picturekit import photo
from PIL import Image, ImageEnhance

from limoe.data.prepared import Prepared
from limoe.data.schema import SCHEMA
from limoe.errors import UserError
from limoe.evals import leakage
from limoe.evals.leakage import Hasher, TrainingPictures
from limoe.evals.pictures import Column, Files
from limoe.evals.seen import Leakage, Seen
from limoe.evals.sets import COLUMNS, EvalSet

Change = Callable[[Image.Image], Image.Image]


def encode(picture: Image.Image, fmt: str = "PNG", quality: int = 90) -> bytes:
    encoded = io.BytesIO()
    picture.save(encoded, fmt, quality=quality)
    return encoded.getvalue()


COPIES = [
    encode(photo(0), "JPEG", 50),
    encode(photo(1), "WEBP", 80),
    encode(photo(2).resize((48, 36)), "JPEG"),
    encode(photo(3).resize((320, 240))),
    encode(ImageEnhance.Brightness(photo(4)).enhance(0.9)),
]
NEW = [photo(seed).transpose(Image.Transpose.FLIP_LEFT_RIGHT) for seed in range(5)] + [photo(seed) for seed in range(100, 115)]
PLAIN = encode(Image.new("RGB", (64, 64), "white"))


def rows(split: str, images: Iterable[bytes]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "key": f"{split}/{number}",
                "source": "folder",
                "split": split,
                "image": image,
                "width": 1,
                "height": 1,
                "captions": [f"caption {number}"],
                "split_group": f"{split}/{number}",
                "label": None,
                "sha256": hashlib.sha256(image).hexdigest(),
            }
            for number, image in enumerate(images)
        ],
        schema=SCHEMA,
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    training = [*(encode(photo(seed)) for seed in range(6)), encode(photo(0)), PLAIN]
    test = [*map(encode, NEW), *COPIES, encode(photo(5)), encode(photo(0)), PLAIN, encode(Image.new("RGB", (64, 64), "red"))]
    root = write_prepared(
        tmp_path_factory.mktemp("leaky") / "prepared", {"train": rows("train", training), "test": rows("test", test)}
    )
    return Prepared(root)


def training(prepared: Prepared, kept: Path) -> TrainingPictures:
    return TrainingPictures(prepared, Hasher(kept, lambda steps, what, count: steps))


SEEN = (
    *(Seen(f"test/{20 + number}", f"train/{number}", False) for number in range(5)),
    Seen("test/25", "train/5", True),
    Seen("test/26", "train/0", True),  # the first of two equal ones
    Seen("test/27", "train/7", True),
)


def test_planted_copies_are_all_found_and_nothing_else(prepared: Prepared, tmp_path: Path) -> None:
    data = EvalSet.of("test", prepared.table("test", COLUMNS))
    found = training(prepared, tmp_path).leakage(data)
    assert found == Leakage("test", 29, 2, SEEN)
    assert (found.exact, found.near) == (3, 5)
    assert Leakage.of(found.row()) == found


def test_a_set_of_the_user_s_own_is_looked_through_likewise(prepared: Prepared, tmp_path: Path) -> None:
    paths = []
    for number, image in enumerate([encode(NEW[0]), *COPIES]):
        paths.append(tmp_path / f"{number}.jpg")
        paths[-1].write_bytes(image)
    whole = EvalSet.of("test", prepared.table("test", COLUMNS))
    keys = tuple(path.name for path in paths)
    own = replace(whole, name="own", keys=keys, images=Files(paths))
    assert [picture.key for picture in training(prepared, tmp_path / "kept").leakage(own).seen] == list(keys[1:])


def test_test_pictures_that_a_probe_learns_from_are_counted(prepared: Prepared, tmp_path: Path) -> None:
    """Byte for byte, and those with a label alone: no others are tested."""
    whole = EvalSet.of("test", prepared.table("test", COLUMNS)).take(range(4))
    data = replace(whole, name="own", labels=("cat", "dog", None, "cat"))
    learnt = [encode(NEW[3]), encode(NEW[2]), encode(NEW[0]), encode(NEW[0]), encode(NEW[1], "JPEG")]
    train = EvalSet("own/train", tuple("abcde"), Column(pa.chunked_array([learnt])), ((),) * 5, ("cat",) * 5, tuple("abcde"))
    found = training(prepared, tmp_path).leakage(replace(data, train=train))
    assert (found.probed, found.seen, Leakage.of(found.row())) == (2, (), found)
    assert found.sentences == [
        "2 of the 4 pictures of own are byte for byte among those that its probes learn from, which flatters their scores"
    ]
    assert training(prepared, tmp_path).leakage(data).sentences == []


def test_no_picture_is_hashed_twice(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = EvalSet.of("test", prepared.table("test", COLUMNS))
    first = training(prepared, tmp_path).leakage(data)
    monkeypatch.delattr(leakage, "hash_encoded")
    assert training(prepared, tmp_path).leakage(replace(data)) == first


def test_a_picture_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    hasher = Hasher(tmp_path, lambda steps, what, count: steps)
    broken = encode(photo(0))[:500]
    digest = hashlib.sha256(broken).hexdigest()
    with pytest.raises(UserError, match=f"own: the picture of SHA-256 {digest[:16]}... cannot be decoded"):
        hasher(Column(pa.chunked_array([[encode(photo(1)), broken]])), ["00", digest], "own")
