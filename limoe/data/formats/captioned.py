"""Pictures with several captions each, in the layouts that COCO, Flickr8k and Flickr30k come in: names and texts, no pictures."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from limoe.data.formats.folders import pictures_below
from limoe.data.scratch import scratch, to_blob, to_path
from limoe.errors import UserError
from limoe.files import read_json

LINE = 1 << 20
FLICKR = (
    "dataset_flickr8k.json",
    "dataset_flickr30k.json",
    "Flickr8k.token.txt",
    "results_20130124.token",
    "captions.txt",
    "results.csv",
)


@dataclass(frozen=True)
class Captioned:
    """What a file says of a picture. name: as it stands there, perhaps with folders. split: as it stands there, if any."""

    name: str
    captions: tuple[Any, ...]
    split: str | None = None


def from_json(file: Path) -> list[Captioned]:
    """Of COCO's form (`images`, `annotations`) or Karpathy's (`images` with `sentences`); UserError if it is neither."""
    try:
        told = read_json(file)
        if "annotations" in told:
            texts: dict[Any, list[Any]] = {row["id"]: [] for row in told["images"]}
            for row in told["annotations"]:
                texts[row["image_id"]].append(row["caption"])
            return [Captioned(_name(row["file_name"]), tuple(texts[row["id"]])) for row in told["images"]]
        return [
            Captioned(_name(row["filename"]), tuple(sentence["raw"] for sentence in row["sentences"]), row.get("split"))
            for row in told["images"]
        ]
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file}: neither COCO's captions nor Karpathy's: {type(error).__name__} {error}") from None


def from_lines(file: Path) -> Iterator[tuple[int, str, str]]:
    """(line, name, caption) of `name#0<tab>caption`, or of Kaggle's `image,caption` or `image_name| comment_number| comment`.

    Name or caption is empty where the line has none. Bytes that are no UTF-8 come as lone surrogates. UserError for a line of
    LINE characters, which is no name and caption.
    """
    with file.open(encoding="utf-8", errors="surrogateescape", newline="") as handle:
        for number, line in enumerate(iter(partial(handle.readline, LINE), ""), 1):
            if len(line) == LINE:
                raise UserError(f"{file}: line {number} is longer than {LINE} characters")
            name, caption = _parted(line)
            if number > 1 or name not in ("image", "image_name"):
                yield number, name.strip().split("#")[0], caption.strip()


def names_of_split(file: Path) -> list[str]:
    """The pictures in a split's list (`Flickr_8k.trainImages.txt`, `train.txt`): names, or numbers without a suffix."""
    return [Path(line).with_suffix(".jpg").name for line in file.read_text(encoding="utf-8").split()]


class PicturesBelow:
    """The pictures below a folder, by their paths there and by names that only one of them has; in a scratch file."""

    def __init__(self, root: Path) -> None:
        """Look for them."""
        self._root = root
        self._file = scratch("CREATE TABLE pictures (path PRIMARY KEY, name) WITHOUT ROWID;")
        paths = map(to_blob, pictures_below(root))
        self._file.executemany("INSERT INTO pictures VALUES (?, ?)", ((path, path.rpartition(b"/")[2]) for path in paths))
        self._file.execute("CREATE INDEX names ON pictures (name)")

    def __bool__(self) -> bool:
        return self._file.execute("SELECT 1 FROM pictures LIMIT 1").fetchone() is not None

    def find(self, name: str) -> str | None:
        """The path of the picture that is meant; None if there is none, or several. Captions may tell less of its folders, or
        other ones."""
        for known in map(to_blob, (name, name.rpartition("/")[2])):
            found = self._file.execute("SELECT path FROM pictures WHERE path = ?", (known,)).fetchall()
            found = found or self._file.execute("SELECT path FROM pictures WHERE name = ? LIMIT 2", (known,)).fetchall()
            if len(found) == 1:
                return to_path(found[0][0])
        return None


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a picture's name is {name!r}")
    return name


def _parted(line: str) -> tuple[str, str]:
    if "\t" in line:
        name, _, caption = line.partition("\t")
        return name, caption
    if "|" in line:  # one line of Flickr30k's lacks its second bar
        name, _, rest = line.partition("|")
        return name, re.sub(r"^\s*(\d+|comment_number)\s*\|?", "", rest)
    try:
        name, *rest_of_row = next(csv.reader([line.rstrip("\r\n")]), []) or [""]
    except csv.Error:  # a text that is longer than any caption
        return "", ""
    return name, ",".join(rest_of_row)
