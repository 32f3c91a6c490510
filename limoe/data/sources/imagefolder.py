"""`imagefolder`: a folder a class, `CLASS/*.jpg` or `train/CLASS/*.jpg`; labels become captions by templates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from limoe.config import SetParams
from limoe.data.formats.classes import read_classes
from limoe.data.formats.folders import class_pictures, subfolders
from limoe.data.sources.base import Rejected
from limoe.data.sources.images import ImageFolder
from limoe.data.sources.listed import Listed, Picture, Told
from limoe.data.sources.splits import WORDS, folder_splits


class ImageFolderSet(Listed):
    """The pictures of class folders."""

    def __init__(self, name: str, params: SetParams, root: Path) -> None:
        """List the pictures; UserError if a class folder is empty, pictures lie beside them, or `classes` are not those here."""
        folder = root / params.path
        self._images = ImageFolder(folder, root)
        tops = [top.name for top in subfolders(folder)]
        splits = all(top.lower() in WORDS and subfolders(folder / top) for top in tops)
        self._splits = folder_splits(f"{top}/" for top in tops)
        self._paths = [path.relative_to(folder) for top in (tops if splits else [""]) for path in class_pictures(folder / top)]
        super().__init__(name, params, root)
        if params.classes:
            labels = [path.parent.name for path in self._paths]
            self.classes = replace(self.classes, names_of=read_classes(root / params.classes, labels, folder))

    def rows(self) -> Iterator[Told | Rejected]:
        """A picture each."""
        for path in self._paths:
            yield Told("", path.as_posix(), label=path.parent.name, by_file=self._splits.get(path.parts[0]))

    def files(self, picture: Picture) -> Sequence[Path]:
        """The picture's."""
        return (self._images.folder / picture.path,)

    def image(self, picture: Picture) -> bytes:
        """The file's."""
        return self._images.read(picture.path)
