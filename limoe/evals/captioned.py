"""Pictures with several captions each, in the layouts that COCO, Flickr8k and Flickr30k come in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from limoe.data.formats.captioned import FLICKR, PicturesBelow, SplitLists, from_json, from_lines
from limoe.errors import UserError
from limoe.evals.layouts import Layout
from limoe.evals.pictures import Files

COCO = ("captions_val2017.json", "captions_val2014.json", "annotations.json")
Captions = Mapping[str, Sequence[str]]


def coco(root: Path, given: Path | None, split: str | None) -> Layout:
    """COCO's captions JSON (or Karpathy's) and its pictures, anywhere below `root`. given: the JSON, if not one of COCO."""
    return _layout(root, _of_json(given or _find(root, COCO), split))


def flickr(root: Path, given: Path | None, split: str | None) -> Layout:
    """The captions of Flickr8k or Flickr30k as their authors, Kaggle or Karpathy give them, and the pictures, below `root`.

    split: one of Karpathy's, or of the lists beside the captions (`Flickr_8k.testImages.txt`, `test.txt`); none: every picture.
    """
    file = given or _find(root, FLICKR)
    if file.suffix == ".json":
        return _layout(root, _of_json(file, split))
    captions = _of_lines(file)
    if split is not None:
        captions = _of_split(file, captions, _list(root, split), split)
    return _layout(root, captions)


def _of_json(file: Path, split: str | None) -> Captions:
    """File name -> captions, of one split where there are several."""
    told = list(from_json(file))
    splits = sorted({one.split or "" for one in told})
    if split is None and len(splits) > 1:
        raise UserError(f"{file}: holds the splits {', '.join(splits)}; say which with the set's key split (--split)")
    kept = told if splits == [""] else [one for one in told if split in (None, one.split)]
    if not kept:
        raise UserError(f"{file}: no picture of the split {split}; there are {', '.join(splits)}")
    if wrong := [one.name for one in kept if not all(isinstance(caption, str) for caption in one.captions)]:
        raise UserError(f"{file}: neither COCO's captions nor Karpathy's: a caption of {wrong[0]} is no text")
    return {one.name: one.captions for one in kept}


def _of_lines(file: Path) -> Captions:
    captions: dict[str, list[str]] = {}
    for number, name, caption in from_lines(file):
        if not name or not caption or re.search("[\udc80-\udcff]", name + caption):
            raise UserError(f"{file}: line {number} is not a picture's name and a caption in UTF-8")
        captions.setdefault(name, []).append(caption)
    if not captions:
        raise UserError(f"{file}: no captions")
    return captions


def _of_split(file: Path, captions: Captions, list_file: Path, split: str) -> Captions:
    """Those of the pictures that the split's list names, in its order."""
    lists = SplitLists({list_file: split})
    meant: dict[str, list[str]] = {name: [] for name in lists.names}
    for name in captions:
        if (known := lists.find(name)) is not None:
            meant[known].append(name)
    if unknown := [known for known, names in meant.items() if not names]:
        raise UserError(f"{file}: no captions of {unknown[0]}, which the split {split} names")
    if not meant:
        raise UserError(f"{list_file}: names no picture")
    return {name: captions[name] for names in meant.values() for name in names}


def _list(root: Path, split: str) -> Path:
    """The file that lists the split's pictures."""
    found = sorted(path for path in root.rglob("*.txt") if path.name in (f"Flickr_8k.{split}Images.txt", f"{split}.txt"))
    if not found:
        raise UserError(f"{root}: no list of the split {split} (Flickr_8k.{split}Images.txt or {split}.txt)")
    return found[0]


def _layout(root: Path, captions: Captions) -> Layout:
    if silent := [name for name, texts in captions.items() if not texts]:
        raise UserError(f"{root}: the picture {silent[0]} has no caption")
    there = PicturesBelow(root)
    found = {name: there.find(name) for name in captions}
    paths = [root / path for path in found.values() if path is not None]
    if missing := [name for name, path in found.items() if path is None]:
        raise UserError(
            f"{root}: {len(missing)} of {len(captions)} pictures that have captions are not there, or several of their name, "
            f"{missing[0]} first"
        )
    return Layout(root, tuple(captions), Files(paths), (None,) * len(paths), tuple(map(tuple, captions.values())))


def _find(root: Path, names: tuple[str, ...]) -> Path:
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    found = [path for name in names for path in sorted(root.rglob(name))]
    if not found:
        raise UserError(
            f"{root}: no captions here ({', '.join(names)}); name their file with the set's key captions (--captions)"
        )
    return found[0]
