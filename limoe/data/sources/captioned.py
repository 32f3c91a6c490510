"""`coco` and `flickr`: captions as COCO, Karpathy, Flickr8k, Flickr30k and Kaggle have them; pictures lie anywhere below."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from limoe.config import SetParams
from limoe.data.formats.captioned import FLICKR, PicturesBelow, SplitLists, from_json, from_lines
from limoe.data.formats.splits import WORDS, named_splits
from limoe.data.sources.base import Rejected
from limoe.data.sources.images import ImageFolder
from limoe.data.sources.listed import Listed, Told
from limoe.data.sources.listing import Picture
from limoe.data.sources.places import Place, find
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
        """With the hash of each file of captions."""
        return {**super().provenance(), "files": {place.name: sha256_file(Path(place.address)) for place in self._files}}

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
