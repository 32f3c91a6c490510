"""Pictures with several captions each, in the layouts that COCO, Flickr8k and Flickr30k come in."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from pathlib import Path

from limoe.errors import UserError
from limoe.evals.layouts import Layout
from limoe.evals.pictures import Files
from limoe.files import read_json

COCO = ("captions_val2017.json", "captions_val2014.json", "annotations.json")
FLICKR = (
    "dataset_flickr8k.json",
    "dataset_flickr30k.json",
    "Flickr8k.token.txt",
    "results_20130124.token",
    "captions.txt",
    "results.csv",
)
Captions = dict[str, list[str]]


def coco(root: Path, given: Path | None, split: str | None) -> Layout:
    """COCO's captions JSON (or Karpathy's) and its pictures, anywhere below `root`. given: the JSON, if not one of COCO."""
    return _layout(root, from_json(given or _find(root, COCO), split))


def flickr(root: Path, given: Path | None, split: str | None) -> Layout:
    """The captions of Flickr8k or Flickr30k as their authors, Kaggle or Karpathy give them, and the pictures, below `root`.

    split: one of Karpathy's, or of the lists beside the captions (`Flickr_8k.testImages.txt`, `test.txt`); none: every picture.
    """
    file = given or _find(root, FLICKR)
    if file.suffix == ".json":
        return _layout(root, from_json(file, split))
    captions = from_lines(file)
    if split is not None:
        kept = _listed(root, split)
        if unknown := [name for name in kept if name not in captions]:
            raise UserError(f"{file}: no captions of {unknown[0]}, which the split {split} names")
        captions = {name: captions[name] for name in kept}
    return _layout(root, captions)


def from_json(file: Path, split: str | None) -> Captions:
    """File name -> captions, from COCO's form (`images`, `annotations`) or Karpathy's (`images` with `sentences`)."""
    told = read_json(file)
    try:
        if "annotations" in told:
            captions: Captions = {row["file_name"]: [] for row in told["images"]}
            names = {row["id"]: row["file_name"] for row in told["images"]}
            for row in told["annotations"]:
                captions[names[row["image_id"]]].append(row["caption"])
            return captions
        splits = sorted({row.get("split", "") for row in told["images"]})
        if split is None and len(splits) > 1:
            raise UserError(f"{file}: holds the splits {', '.join(splits)}; say which with the set's key split (--split)")
        rows = [row for row in told["images"] if split in (None, row.get("split"))]
        if not rows:
            raise UserError(f"{file}: no picture of the split {split}; there are {', '.join(splits)}")
        return {row["filename"]: [sentence["raw"] for sentence in row["sentences"]] for row in rows}
    except (KeyError, TypeError) as error:
        raise UserError(f"{file}: neither COCO's captions nor Karpathy's: {type(error).__name__} {error}") from None


def from_lines(file: Path) -> Captions:
    """File name -> captions: `name#0<tab>caption`, or Kaggle's `image,caption` or `image_name| comment_number| comment`."""
    captions: Captions = {}
    with file.open(encoding="utf-8", newline="") as handle:
        for name, caption in _rows(file, handle):
            captions.setdefault(name.strip().split("#")[0], []).append(caption.strip())
    if not captions:
        raise UserError(f"{file}: no captions")
    return captions


def _rows(file: Path, lines: Iterable[str]) -> Iterable[tuple[str, str]]:
    for number, line in enumerate(lines, 1):
        if "\t" in line:
            name, caption = line.split("\t", 1)
        elif "|" in line:  # one line of Flickr30k's lacks its second bar
            name, _, rest = line.partition("|")
            caption = re.sub(r"^\s*(\d+|comment_number)\s*\|?", "", rest)
        else:
            name, *rest_of_row = next(csv.reader([line.rstrip("\r\n")]), []) or [""]
            caption = ",".join(rest_of_row)
        if number == 1 and name in ("image", "image_name"):
            continue
        if not name.strip() or not caption.strip():
            raise UserError(f"{file}: line {number} is not a picture's name and a caption")
        yield name, caption


def _listed(root: Path, split: str) -> list[str]:
    """The names in the split's list."""
    found = sorted(path for path in root.rglob("*.txt") if path.name in (f"Flickr_8k.{split}Images.txt", f"{split}.txt"))
    if not found:
        raise UserError(f"{root}: no list of the split {split} (Flickr_8k.{split}Images.txt or {split}.txt)")
    return [Path(line).with_suffix(".jpg").name for line in found[0].read_text(encoding="utf-8").split()]


def _layout(root: Path, captions: Captions) -> Layout:
    if silent := [name for name, texts in captions.items() if not texts]:
        raise UserError(f"{root}: the picture {silent[0]} has no caption")
    there = {path.name: path for path in root.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png")}
    if missing := [name for name in captions if Path(name).name not in there]:
        raise UserError(
            f"{root}: {len(missing)} of {len(captions)} pictures that have captions are not there, {missing[0]} first"
        )
    paths = [there[Path(name).name] for name in captions]
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
