"""Pictures with several captions each, in the layouts that COCO, Flickr8k and Flickr30k come in: names and texts, no pictures."""

from __future__ import annotations

import csv
import json
import posixpath
import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ijson

from limoe.data.formats.folders import SUFFIXES, pictures_below
from limoe.data.scratch import scratch, to_blob, to_path
from limoe.errors import UserError

LINE = 1 << 20
PIECE = 1 << 12  # bytes whose values are in memory at a time
DEEPEST = 100  # brackets in each other: no caption has ten
ANNOTATIONS = "CREATE TABLE captions (id, caption); CREATE TABLE images (id)"
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


def from_json(file: Path) -> Iterator[Captioned]:
    """Of COCO's form (`images`, `annotations`) or Karpathy's (`images` with `sentences`), read piece by piece: what is in memory
    does not grow with the file. Half a surrogate pair comes as a question mark. UserError if it is neither, or no JSON."""
    try:
        with closing(scratch(ANNOTATIONS)) as told:
            rows = ((json.dumps(row["image_id"]), json.dumps(row["caption"])) for row in _items(file, "annotations"))
            told.executemany("INSERT INTO captions VALUES (?, ?)", rows)
            told.execute("CREATE INDEX ids ON captions (id)")
            images = 0
            for row in _items(file, "images"):
                images += 1
                if "sentences" in row:
                    texts = tuple(sentence["raw"] for sentence in row["sentences"])
                    yield Captioned(_name(row["filename"]), texts, row.get("split"))
                else:
                    key = (json.dumps(row["id"]),)
                    told.execute("INSERT INTO images VALUES (?)", key)
                    found = told.execute("SELECT caption FROM captions WHERE id = ? ORDER BY rowid", key)
                    yield Captioned(_name(row["file_name"]), tuple(json.loads(caption) for (caption,) in found))
            if not images:
                raise KeyError("images")
            if told.execute("SELECT EXISTS (SELECT * FROM images) AND NOT EXISTS (SELECT * FROM captions)").fetchone()[0]:
                raise KeyError("annotations")
            if told.execute("SELECT EXISTS (SELECT * FROM captions WHERE id NOT IN (SELECT id FROM images))").fetchone()[0]:
                raise KeyError("an image_id that no image has")
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: neither COCO's captions nor Karpathy's: {type(error).__name__} {error}") from None


def _items(file: Path, name: str) -> Iterator[Any]:
    """What the list of that name holds, in the object that the file is; nothing if there is no such list.

    Not by ijson's own `items`: it spells out where each bracket lies, and a hundred thousand of them would fill the memory.
    """
    depth, key, listed, building = 0, None, False, None
    try:
        with file.open("rb") as handle:
            for event, value in ijson.basic_parse(handle, buf_size=PIECE, use_float=True):
                opens = event in ("start_map", "start_array")
                depth -= event in ("end_map", "end_array")
                if depth == 1:
                    key = value if event == "map_key" else key
                    listed = event == "start_array" and key == name
                elif listed:
                    building = building or ijson.ObjectBuilder()
                    building.event(event, value)
                    if depth == 2 and not opens:
                        yield building.value
                        building = None
                depth += opens
                if depth > DEEPEST:
                    raise ValueError(f"more than {DEEPEST} brackets in each other")
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from None
    except (ijson.JSONError, ValueError) as error:  # a number of thousands of digits is a ValueError alone
        raise UserError(f"{file}: not valid JSON ({error})") from None


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


class SplitLists:
    """Lists of the pictures of splits (`Flickr_8k.trainImages.txt`, `train.txt`): a name a line.

    Captions may call a picture by more or less of its path than a list does, and a list may leave its suffix out.
    """

    def __init__(self, lists: Mapping[Path, str]) -> None:
        """lists: each file's split. UserError if one is not UTF-8, or two put a picture into different splits."""
        self._splits, self._found = lists, set[Path]()
        self._lists: dict[str, tuple[Path, ...]] = {}  # by name: those that have it
        self._longer: dict[str, str | None] = {}  # names by their last part, where they have more; None where several have it
        for file in lists:
            mine = (file,)
            for name in _names(file):
                known = self._lists.get(name, ())
                if known and lists[known[0]] != lists[file]:
                    raise UserError(f"{file}: the name {name!r} is in {known[0].name}, too; a picture belongs to one split")
                self._lists[name] = (*known, file) if known else mine
                last = name.rpartition("/")[2]
                if last != name and not known:
                    self._longer[last] = None if last in self._longer else name

    @property
    def names(self) -> list[str]:
        """Those of all lists, in their order, each once."""
        return list(self._lists)

    def find(self, name: str) -> str | None:
        """The listed name of the picture that captions call `name`; None if no list has it."""
        name = posixpath.normpath(name)
        spelt = (*_spellings(name), *_spellings(name.rpartition("/")[2]))
        return next((known for known in spelt if known in self._lists), None) or next(
            (longer for known in _spellings(name) if (longer := self._longer.get(known))), None
        )

    def split_of(self, name: str) -> str | None:
        """The split of the picture that captions call `name`; None if no list has it."""
        if (known := self.find(name)) is None:
            return None
        self._found.update(self._lists[known])
        return self._splits[self._lists[known][0]]

    def check_found(self) -> None:
        """UserError if there is a list none of whose names `split_of` was asked for."""
        for name, files in self._lists.items():
            if lost := [file for file in files if file not in self._found]:
                raise UserError(
                    f"{lost[0]}: none of its names is that of a picture in the captions beside it, {name[:80]!r} for one; "
                    "allowed is a name or path a line as the captions have it, with its suffix or without; call it otherwise if "
                    "it is no such list"
                )


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


def _names(file: Path) -> Iterator[str]:
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise UserError(f"{file}: not a list of names in UTF-8") from None
    return (posixpath.normpath(name) for line in lines if (name := line.strip()))


def _spellings(name: str) -> tuple[str, ...]:
    """As it is, and without the picture's suffix."""
    stem = name.rpartition(".")[0]
    return (name, stem) if name.lower().endswith(SUFFIXES) and not stem.lower().endswith(SUFFIXES) else (name,)


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
