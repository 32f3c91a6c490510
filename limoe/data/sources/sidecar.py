"""`sidecar`: a folder of pictures, each with a text file of its name beside it: `a.jpg` and `a.txt`, a caption a line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from limoe.config import SetParams
from limoe.data.formats.folders import SUFFIXES, pictures_below
from limoe.data.sources import texts
from limoe.data.sources.base import Rejected
from limoe.data.sources.images import ImageFolder
from limoe.data.sources.listed import Listed, Told
from limoe.data.sources.listing import Picture
from limoe.data.sources.splits import folder_splits
from limoe.data.verify import BadImage
from limoe.errors import UserError


class Sidecar(Listed):
    """The pictures anywhere below a folder; a first folder named after a split tells it."""

    def __init__(self, name: str, params: SetParams, root: Path) -> None:
        """List the pictures; UserError if there is none, or no folder."""
        if not (root / params.path).is_dir():
            raise UserError(f"{params.path}: must be a folder, of pictures with a .txt each")
        self._images = ImageFolder(root / params.path, root)
        super().__init__(name, params, root)
        if not self.total:
            raise UserError(f"{params.path}: no file here that ends in {', '.join(SUFFIXES)}")

    def rows(self) -> Iterator[Told | Rejected]:
        """A picture each; its text is read with it."""
        splits = folder_splits(pictures_below(self._images.folder))
        for name in pictures_below(self._images.folder):
            yield Told("", name, by_file=splits.get(name.split("/")[0]), later=True)

    def files(self, picture: Picture) -> Sequence[Path]:
        """The picture's, and the text's beside it."""
        file = self._images.folder / picture.path
        return (file, file.with_suffix(".txt"))

    def image(self, picture: Picture) -> bytes:
        """The file's."""
        return self._images.read(picture.path)

    def spoken(self, picture: Picture) -> Sequence[str]:
        """The lines of the text beside it that are not empty."""
        try:
            content = self._images.read(Path(picture.path).with_suffix(".txt").as_posix())
        except BadImage as error:
            raise BadImage("empty-caption", f"its .txt: {error.detail}") from None
        return texts.captions(content.decode("utf-8-sig", "surrogateescape").splitlines())
