"""Sets whose pictures are listed first: the list is not held in memory, whatever kind it is."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from limoe.config import SetParams
from limoe.data.formats.captioned import PicturesBelow
from limoe.data.formats.folders import pictures_below
from limoe.data.sources import open_set
from limoe.data.sources.base import Rejected
from limoe.data.sources.listing import Listing, Picture

EACH = 100  # pictures of a folder


def lay(root: Path, count: int) -> None:
    """So many pictures (empty files), and what names them in every way."""
    names = [f"{number // EACH:04d}/{number:06d}.jpg" for number in range(count)]
    for name in names:
        (root / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "photos" / name).touch()
    rows = [f"{name},a photo of number {number} on a green field" for number, name in enumerate(names)]
    (root / "t.csv").write_text("\n".join(["image,caption", *rows]))
    (root / "captions.txt").write_text("\n".join(["image,caption", *rows]))
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    annotations = [{"image_id": number, "caption": f"a photo of number {number} on a green field"} for number in range(count)]
    (root / "captions_all.json").write_text(json.dumps({"annotations": annotations, "images": images}))


def peak(root: Path, params: SetParams) -> int:
    """Bytes that Python holds at most while the set is listed."""
    tracemalloc.start()
    try:
        source = open_set("mine", params, root)
        assert source.total == sum(part.stop - part.start for part in source.parts if part.stop is not None)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "params",
    [
        {"path": "t.csv", "images": "photos", "kind": "table"},
        {"path": "captions.txt", "images": "photos", "kind": "flickr"},
        {"path": "captions_all.json", "images": "photos", "kind": "coco"},
        {"path": "photos", "kind": "imagefolder"},
        {"path": "photos", "kind": "sidecar"},
    ],
    ids=lambda params: params["kind"],
)
def test_memory_does_not_grow_with_the_list(tmp_path: Path, params: dict[str, Any]) -> None:
    few, many = 300, 3300
    for count in (few, many):
        lay(tmp_path / str(count), count)
    peak(tmp_path / str(few), SetParams.model_validate(params))  # modules are loaded
    grown = peak(tmp_path / str(many), SetParams.model_validate(params)) - peak(
        tmp_path / str(few), SetParams.model_validate(params)
    )
    assert grown < 40 * (many - few)


def test_a_listing_keeps_places() -> None:
    listing = Listing()
    odd = "sub/caf\udce9.jpg"  # a name that is no UTF-8
    assert listing.add(Picture(odd, ("t.csv", 7, "image"), ["one"], group="g"))
    assert listing.add(Picture("b.jpg", label="cat", split="val", group="g"))
    assert listing.add(Picture("c.jpg", split="test"))
    assert not listing.add(Picture(odd))
    listing.replace(Picture(odd, ("t.csv", 7, "image"), ["one", "two"], group="g"))
    listing.refuse(Rejected("mine/x", "mine", "bad-row", "line 3"))
    assert listing.counts == (3, 1)
    assert [picture.path for picture in listing.pictures(0, 3)] == [odd, "b.jpg", "c.jpg"]
    assert list(listing.pictures(1, 2)) == [Picture("b.jpg", label="cat", split="val", group="g")]
    assert listing[odd] == Picture(odd, ("t.csv", 7, "image"), ["one", "two"], group="g")
    assert list(listing.refused()) == [Rejected("mine/x", "mine", "bad-row", "line 3")]


def test_pictures_below_a_folder_come_in_the_order_of_their_paths_parts(tmp_path: Path) -> None:
    for name in ("a.jpg", "a/z.PNG", "a/b/c.jpg", "a-b/d.jpg", ".hidden/e.jpg", "a/.f.jpg", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b").symlink_to(tmp_path / "a", target_is_directory=True)
    expected = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.suffix.lower() in (".jpg", ".png"))
    expected = [path for path in expected if not any(part.startswith(".") for part in path.parts)]
    assert list(pictures_below(tmp_path)) == [path.as_posix() for path in expected]
    assert len(expected) == 4


def test_a_picture_is_found_by_its_path_or_by_a_name_of_its_own(tmp_path: Path) -> None:
    assert not PicturesBelow(tmp_path)
    for name in ("1.jpg", "a/1.jpg", "a/2.jpg", "b/2.jpg", "b/3.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    there = PicturesBelow(tmp_path)
    asked = ("1.jpg", "a/1.jpg", "2.jpg", "b/2.jpg", "3.jpg", "other/3.jpg", "4.jpg")
    assert [there.find(name) for name in asked] == ["1.jpg", "a/1.jpg", None, "b/2.jpg", "b/3.jpg", "b/3.jpg", None]
