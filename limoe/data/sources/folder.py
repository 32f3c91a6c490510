"""A user's own pictures: a folder of images, and a csv or jsonl file that names them and tells what they show.

Columns `image` (a path inside the folder) and `caption`; optional `label`, `split` (train, val or test) and `group` (what must
not straddle a split; by default the path without its suffix). Rows that name the same image add their captions to it. Without a
split the group's hash decides, and a group whose split some row names goes there as a whole.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from limoe import files
from limoe.config import FolderParams, PrepareParams
from limoe.data.schema import TRAIN
from limoe.data.sources.base import Candidate, Part, Rejected, fraction
from limoe.data.sources.captions import Row, read_rows
from limoe.data.sources.packages import Package
from limoe.data.verify import BadImage
from limoe.errors import UserError

SPLITS = (TRAIN, "val", "test")
MAX_BYTES = 256 << 20  # of one file; it is read whole
PART_PICTURES = 2000
BAD_ROWS, PICTURES = "rejected", "pictures"  # names of the parts
ONE_A_PICTURE = ("label", "split", "group")


@dataclass
class Picture:
    """What the rows say about one image. path: inside the folder, normalised."""

    path: str
    captions: list[str] = field(default_factory=list)
    label: str | None = None
    split: str | None = None
    group: str | None = None

    @property
    def key(self) -> str:
        """The record's key."""
        return f"folder/{self.path}"

    @property
    def split_group(self) -> str:
        """The named group, else the path without its suffix."""
        return self.group or posixpath.splitext(self.path)[0]


class FolderSource:
    """The pictures that a captions file names."""

    def __init__(self, params: PrepareParams, root: Path) -> None:
        """Read the captions file, not the pictures; UserError if a path is not set or not there, or the file has no such form."""
        self._params, self._root = params.folder, root
        self._images = _existing(root, params.folder.images, "images")
        self._captions = _existing(root, params.folder.captions, "captions")
        self._rejected: list[Rejected] = []
        self._pictures: dict[str, Picture] = {}
        for line, row in read_rows(self._captions):
            reason, detail = ("bad-row", row) if isinstance(row, str) else self._take(row)
            if reason:
                name = "" if isinstance(row, str) else row.image
                self._rejected.append(Rejected(f"folder/{name}", "folder", reason, f"line {line}: {detail}"))
        self._group_splits: dict[str, str] = {}
        for picture in self._pictures.values():
            if picture.split:
                self._group_splits.setdefault(picture.split_group, picture.split)

    @classmethod
    def packages(cls, params: PrepareParams) -> tuple[Package, ...]:  # noqa: ARG003  none, whatever the params
        """None: the pictures are the user's."""
        return ()

    @property
    def total(self) -> int:
        """One candidate a picture, and the rows that were rejected."""
        return len(self._pictures) + len(self._rejected)

    @property
    def parts(self) -> Sequence[Part]:
        """The rejected rows, then the pictures in the order of their first rows."""
        rows = [Part(BAD_ROWS, 0, len(self._rejected))] if self._rejected else []
        return [*rows, *Part.split(PICTURES, len(self._pictures), PART_PICTURES)]

    def candidates(self, part: Part) -> Iterator[Candidate | Rejected]:
        """What the part has of either."""
        if part.name == BAD_ROWS:
            yield from self._rejected
            return
        for picture in islice(self._pictures.values(), part.start, part.stop):
            try:
                split, image = self._split(picture), self._read(picture.path)
            except BadImage as error:
                yield Rejected(picture.key, "folder", error.reason, error.detail)
                continue
            captions, group = tuple(picture.captions), picture.split_group
            yield Candidate(picture.key, "folder", split, image, captions, group, picture.label)

    def inputs(self, part: Part) -> Sequence[Path]:
        """Its pictures."""
        if part.name == BAD_ROWS:
            return ()
        return [self._images / picture.path for picture in islice(self._pictures.values(), part.start, part.stop)]

    def provenance(self) -> dict[str, Any]:
        """Hash of the captions file and number of pictures that it names."""
        return {"captions_sha256": files.sha256_file(self._captions), "pictures": len(self._pictures)}

    def _take(self, row: Row) -> tuple[str, str]:
        """Add the row to its picture; reason and detail if it cannot be, two empty strings if it was."""
        if not row.caption:
            return "empty-caption", "no caption, or one of white space alone"
        if row.split not in (None, *SPLITS):
            return "bad-split", f"split {row.split!r}; allowed are {', '.join(SPLITS)}"
        path = posixpath.normpath(row.image)
        if path.startswith("/") or path.split("/")[0] == "..":
            return "path-escape", "does not lie in the folder of images"
        picture = self._pictures.get(path) or Picture(path)
        said = {name: value for name in ONE_A_PICTURE if (value := getattr(row, name)) is not None}
        for name, value in said.items():
            if getattr(picture, name) not in (None, value):
                return "conflicting-row", f"{name} {value!r}, an earlier row of this image has {getattr(picture, name)!r}"
        if row.caption in picture.captions:
            return "duplicate-row", "an earlier row of this image has this caption"
        vars(picture).update(said)
        picture.captions.append(row.caption)
        self._pictures[path] = picture
        return "", ""

    def _split(self, picture: Picture) -> str:
        """By name, by the group's other rows, or by hash; BadImage if the group has another split by name."""
        group = picture.split_group
        split = self._group_splits.get(group) or hashed_split(group, self._params)
        if picture.split not in (None, split):
            raise BadImage("split-conflict", f"split {picture.split}, but an earlier row puts the group {group!r} into {split}")
        return split

    def _read(self, path: str) -> bytes:
        """The file's content; BadImage if it is missing, unreadable, too large, or outside the folder."""
        file = self._images / path
        try:
            if not file.is_file():
                raise BadImage("missing-file", "no such file in the folder of images")
            if not self._confined(file):
                raise BadImage("path-escape", "a link that leads out of the folder of images")
            if (size := file.stat().st_size) > MAX_BYTES:
                raise BadImage("too-many-bytes", f"{size} bytes; allowed are {MAX_BYTES}")
            return file.read_bytes()
        except OSError as error:
            raise BadImage("unreadable", error.strerror or type(error).__name__) from None

    def _confined(self, file: Path) -> bool:
        """Whether the file lies in the folder of images, links followed, or in DVC's cache, which it may have linked in."""
        target = file.resolve()
        return any(target.is_relative_to(place.resolve()) for place in (self._images, self._root / ".dvc"))


def hashed_split(group: str, params: FolderParams) -> str:
    """The split that the group's hash chooses, in the shares that the params ask for."""
    place = fraction("folder", group)
    if place < params.test_fraction:
        return "test"
    return "val" if place < params.test_fraction + params.val_fraction else TRAIN


def _existing(root: Path, given: str | None, name: str) -> Path:
    """The path that prepare.folder.<name> gives, from `root`; UserError if it is not set or nothing is there."""
    if given is None:
        raise UserError(f"prepare.folder.{name} is not set, and the source `folder` needs it")
    path = root / given
    if not (path.is_dir() if name == "images" else path.is_file()):
        raise UserError(f"prepare.folder.{name}: {path} is no {'folder' if name == 'images' else 'file'}")
    return path
