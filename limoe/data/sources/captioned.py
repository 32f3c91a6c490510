"""`coco` and `flickr`: captions as COCO, Karpathy, Flickr8k, Flickr30k and Kaggle have them; pictures lie anywhere below."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from limoe.config import SetParams
from limoe.data.addresses import opened
from limoe.data.formats.captioned import FLICKR, PicturesBelow, SplitLists, from_json, from_lines
from limoe.data.formats.folders import SUFFIXES as PICTURES
from limoe.data.formats.splits import WORDS, named_splits
from limoe.data.sources.base import Rejected
from limoe.data.sources.images import ImageFolder
from limoe.data.sources.listed import Listed, Told
from limoe.data.sources.listing import Picture
from limoe.data.sources.places import Place, find
from limoe.data.sources.rows import SUFFIXES as TABLES
from limoe.data.sources.table import images_folder
from limoe.data.verify import BadImage
from limoe.errors import UserError
from limoe.files import sha256_file

JSON = re.compile(r"(captions_|dataset_).*\.json|annotations\.json")
LOOKED_INTO = 1 << 12  # bytes of a file's first line, at most
OF_30K = "image_name|comment_number|comment"  # Kaggle's headers, without white space
HEADERS = ("image,caption", OF_30K)
IN_LINES = re.compile(rf"[^\t]+#\d+\t|[^,|\t]+({'|'.join(map(re.escape, PICTURES))}) *[,|]", re.IGNORECASE)
MISSING = "no such file in the folder of images, or several of this name"
LIST = re.compile(r"(?:Flickr_8k\.)?([a-z]+)(?:Images)?\.txt")  # names of a split's pictures


class Captioned(Listed):
    """The pictures that files of captions name. path: these, or a folder that holds them, and by default the pictures too."""

    def __init__(self, name: str, params: SetParams, root: Path) -> None:
        """UserError if there is no such file, or one is of another form."""
        self._files, self._aside = _files(params, root)
        folder = root / params.path
        self._folder = folder if folder.is_dir() and params.images is None else images_folder(params, root, self._files[0])
        self._images = ImageFolder(self._folder, root)
        super().__init__(name, params, root)

    def rows(self) -> Iterator[Told | Rejected]:
        """Of every file, in order; pictures that are not there are rejected. UserError if a split's list names none of them."""
        if not (there := PicturesBelow(self._folder)):
            raise UserError(f"{self._folder}: no pictures below it; say with the set's key images where they are")
        splits = named_splits(place.name for place in self._files)
        lists: dict[Path, SplitLists] = {}
        for place in self._files:
            by_file = splits.get(place.name)
            if place.name.endswith(".json"):
                told = self._of_json(place, by_file)
            else:
                folder = Path(place.address).parent
                lists[folder] = lists.get(folder) or self._lists_in(folder)
                told = self._of_lines(place, by_file, lists[folder])
            for row in told:
                path = there.find(row.image)
                if path is None:
                    yield self.rejected(row.image, BadImage("missing-file", MISSING), row.where)
                else:
                    row.image = path
                    yield row
        for beside in lists.values():
            beside.check_found()

    def files(self, picture: Picture) -> Sequence[Path]:
        """The picture's."""
        return (self._images.folder / picture.path,)

    def image(self, picture: Picture) -> bytes:
        """The file's."""
        return self._images.read(picture.path)

    def provenance(self) -> dict[str, Any]:
        """With the hash of each file of captions, and which tables and other captions' files of its folder are not read."""
        hashes = {place.name: sha256_file(Path(place.address)) for place in self._files}
        return {**super().provenance(), "files": hashes, "left_aside": [place.name for place in self._aside]}

    def _of_json(self, place: Place, by_file: str | None) -> Iterator[Told]:
        for number, one in enumerate(from_json(Path(place.address)), 1):
            yield Told(f"{place.name}, picture {number}", one.name, list(one.captions), split=one.split, by_file=by_file)

    def _of_lines(self, place: Place, by_file: str | None, lists: SplitLists) -> Iterator[Told]:
        for number, name, caption in from_lines(Path(place.address)):
            yield Told(f"{place.name}, line {number}", name, caption, by_file=lists.split_of(name) or by_file)

    def _lists_in(self, folder: Path) -> SplitLists:
        """The lists of splits in a folder of captions; none where all of the set goes to one."""
        captions = {Path(place.address) for place in self._files}
        files = [] if self.params.split else sorted(set(folder.glob("*.txt")) - captions)
        named = {file: match[1] for file in files if (match := LIST.fullmatch(file.name))}
        return SplitLists({file: WORDS[word] for file, word in named.items() if word in WORDS})


def is_flickrs(place: Place) -> bool:
    """Whether a file with a name of Flickr's begins as one; UserError if it cannot be read.

    Other people have a results.csv, too; in a text, which is no table, the header may be left out.
    """
    first = _first_line(place)
    return "".join(first.split()) in HEADERS or (place.name.endswith(".txt") and IN_LINES.match(first) is not None)


def _files(params: SetParams, root: Path) -> tuple[list[Place], list[Place]]:
    """The files of captions, those that the path names or the known ones in the folder that it is; and what else in this folder
    might be taken for one, or is a table."""
    suffixes = (".json",) if params.kind == "coco" else (".json", ".txt", ".token", ".csv")
    if not (root / params.path).is_dir():
        return find(root, params.path, suffixes), []
    there = find(root, params.path, (*suffixes, *TABLES))
    named = [place for place in there if (file := Path(place.name).name) in FLICKR or JSON.fullmatch(file)]
    known = [place for place in named if place.name.endswith(suffixes)]
    if not known:
        raise UserError(f"{root / params.path}: no captions here (captions_*.json, {', '.join(FLICKR)}); name their file as path")
    files = list(filter(_is_no_others, known)) or known
    return files, [place for place in there if place not in files and (place in named or place.name.lower().endswith(TABLES))]


def _is_no_others(place: Place) -> bool:
    """Whether it is a file of captions for sure. Beside one a csv is none, not even with the header `image,caption`, which what
    a model said of the pictures has as well."""
    if place.name.endswith(".csv"):
        return "".join(_first_line(place).split()) == OF_30K
    return not place.name.endswith(".txt") or is_flickrs(place)


def _first_line(place: Place) -> str:
    try:
        with opened(place.address) as handle:
            return handle.readline(LOOKED_INTO).decode("utf-8-sig", "replace")
    except OSError as error:
        raise UserError(f"{place.name}: cannot be read ({error.strerror or error})") from None
