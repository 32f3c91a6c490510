"""`coco` and `flickr`: captions as COCO, Karpathy, Flickr8k, Flickr30k and Kaggle have them; pictures lie anywhere below."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from limoe.config import SetParams
from limoe.data.formats.captioned import FLICKR, PicturesBelow, from_json, from_lines, names_of_split
from limoe.data.sources.base import Rejected
from limoe.data.sources.images import ImageFolder
from limoe.data.sources.listed import Listed, Told
from limoe.data.sources.listing import Picture
from limoe.data.sources.places import Place, find
from limoe.data.sources.splits import WORDS, named_splits
from limoe.data.sources.table import images_folder
from limoe.data.verify import BadImage
from limoe.errors import UserError
from limoe.files import sha256_file

JSON = re.compile(r"(captions_|dataset_).*\.json|annotations\.json")
MISSING = "no such file in the folder of images, or several of this name"
LIST = re.compile(r"(?:Flickr_8k\.)?([a-z]+)(?:Images)?\.txt")  # names of a split's pictures


class Captioned(Listed):
    """The pictures that files of captions name. path: these, or a folder that holds them, and by default the pictures too."""

    def __init__(self, name: str, params: SetParams, root: Path) -> None:
        """UserError if there is no such file, or one is of another form."""
        self._files = _files(params, root)
        folder = root / params.path
        self._folder = folder if folder.is_dir() and params.images is None else images_folder(params, root, self._files[0])
        self._images = ImageFolder(self._folder, root)
        super().__init__(name, params, root)

    def rows(self) -> Iterator[Told | Rejected]:
        """Of every file, in order; pictures that are not there are rejected."""
        if not (there := PicturesBelow(self._folder)):
            raise UserError(f"{self._folder}: no pictures below it; say with the set's key images where they are")
        splits = named_splits(place.name for place in self._files)
        for place in self._files:
            read = self._of_json if place.name.endswith(".json") else self._of_lines
            for row in read(place, splits.get(place.name)):
                path = there.find(row.image)
                if path is None:
                    yield self.rejected(row.image, BadImage("missing-file", MISSING), row.where)
                else:
                    row.image = path
                    yield row

    def files(self, picture: Picture) -> Sequence[Path]:
        """The picture's."""
        return (self._images.folder / picture.path,)

    def image(self, picture: Picture) -> bytes:
        """The file's."""
        return self._images.read(picture.path)

    def provenance(self) -> dict[str, Any]:
        """With the hash of each file of captions."""
        return {**super().provenance(), "files": {place.name: sha256_file(Path(place.address)) for place in self._files}}

    def _of_json(self, place: Place, by_file: str | None) -> Iterator[Told]:
        for number, one in enumerate(from_json(Path(place.address)), 1):
            yield Told(f"{place.name}, picture {number}", one.name, list(one.captions), split=one.split, by_file=by_file)

    def _of_lines(self, place: Place, by_file: str | None) -> Iterator[Told]:
        listed = _listed(Path(place.address).parent)
        for number, name, caption in from_lines(Path(place.address)):
            yield Told(f"{place.name}, line {number}", name, caption, by_file=listed.get(name, by_file))


def _files(params: SetParams, root: Path) -> list[Place]:
    """The files of captions: those that the path names, or the known ones in the folder that it is."""
    suffixes = (".json",) if params.kind == "coco" else (".json", ".txt", ".token", ".csv")
    found = find(root, params.path, suffixes)
    if not (root / params.path).is_dir():
        return found
    known = [place for place in found if (file := Path(place.name).name) in FLICKR or JSON.fullmatch(file)]
    if not known:
        raise UserError(f"{root / params.path}: no captions here (captions_*.json, {', '.join(FLICKR)}); name their file as path")
    return known


def _listed(folder: Path) -> dict[str, str]:
    """Name -> split, from the lists of names beside the captions."""
    found = [(match[1], path) for path in sorted(folder.glob("*.txt")) if (match := LIST.fullmatch(path.name))]
    return {name: WORDS[word] for word, path in found if word in WORDS for name in names_of_split(path)}
