"""`imagefolder`: a folder a class, `CLASS/*.jpg` or `train/CLASS/*.jpg`; labels become captions by templates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from limoe.config import SetParams
from limoe.data.formats.classes import read_classes
from limoe.data.formats.folders import labelled_pictures, pictures_in, subfolders
from limoe.data.formats.splits import WORDS
from limoe.data.sources.base import Rejected
from limoe.data.sources.images import ImageFolder
from limoe.data.sources.listed import Listed, Told
from limoe.data.sources.listing import Picture
from limoe.data.sources.splits import folder_splits
from limoe.errors import UserError


class ImageFolderSet(Listed):
    """The pictures of class folders."""

    def __init__(self, name: str, params: SetParams, root: Path) -> None:
        """List the pictures; UserError if a class folder has none, some lie beside them, or `classes` are not those here."""
        folder = root / params.path
        self._images = ImageFolder(folder, root)
        tops = [top.name for top in subfolders(folder)]
        splits = bool(tops) and all(top.lower() in WORDS and subfolders(folder / top) for top in tops)
        if splits and (loose := pictures_in(folder)):
            raise UserError(f"{folder}: {loose[0].name} lies beside the folders of splits; it must lie in that of its class")
        self._tops = tops if splits else [""]
        self._splits = folder_splits(f"{top}/" for top in tops)
        self._labels: dict[str, None] = {}
        super().__init__(name, params, root)
        if params.classes:
            self.classes = replace(self.classes, names_of=read_classes(root / params.classes, list(self._labels), folder))

    def rows(self) -> Iterator[Told | Rejected]:
        """A picture each."""
        folder = self._images.folder
        for label, path in chain.from_iterable(labelled_pictures(folder / top) for top in self._tops):
            name = path.relative_to(folder)
            self._labels[label] = None
            yield Told("", name.as_posix(), label=label, by_file=self._splits.get(name.parts[0]))

    def files(self, picture: Picture) -> Sequence[Path]:
        """The picture's."""
        return (self._images.folder / picture.path,)

    def image(self, picture: Picture) -> bytes:
        """The file's."""
        return self._images.read(picture.path)
