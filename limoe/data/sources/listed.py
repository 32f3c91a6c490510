"""Sets whose pictures are listed before any is opened: what rows say about one picture adds up."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from limoe.config import SetParams
from limoe.data.sources import texts
from limoe.data.sources.base import Part, Rejected
from limoe.data.sources.listing import Listing, Picture
from limoe.data.sources.own import Item, OwnSource
from limoe.data.sources.splits import understood
from limoe.data.verify import BadImage

PART_PICTURES = 2000
REFUSED, PICTURES = "refused", "pictures"  # names of the parts
ONE_A_PICTURE = ("label", "split", "group")


@dataclass(slots=True)
class Told:
    """What one row says. where: for the rejected ones, as `line 3`. image: its path in the folder of images, or another key.

    by_file: the split that the row's file is named after. held: where the bytes are, if no path tells. later: whether captions
    are read with the picture.
    """

    where: str
    image: str
    captions: Any = None
    label: Any = None
    split: Any = None
    group: Any = None
    by_file: str | None = None
    held: Any = None
    later: bool = False


class Listed(OwnSource):
    """A set that is a list of pictures; a kind adds the rows, and how a picture is opened."""

    def __init__(self, name: str, params: SetParams, root: Path) -> None:
        """Read the rows, no picture; UserError as the kind says."""
        super().__init__(name, params, root)
        self._listing = Listing()
        for row in self.rows():
            if isinstance(row, Rejected):
                self._listing.refuse(row)
                continue
            try:
                self._take(row)
            except BadImage as error:
                self._listing.refuse(self.rejected(row.image, error, row.where))

    @abstractmethod
    def rows(self) -> Iterator[Told | Rejected]:
        """What the set's files say; called once, while the source is made."""

    @abstractmethod
    def image(self, picture: Picture) -> bytes:
        """The encoded picture; BadImage says why there is none."""

    @abstractmethod
    def files(self, picture: Picture) -> Sequence[Path]:
        """What is read for a picture that its path tells."""

    def spoken(self, picture: Picture) -> Sequence[str]:
        """The picture's captions; BadImage if they cannot be read."""
        return picture.captions

    @property
    def total(self) -> int:
        """One candidate a picture, and the rows that were rejected."""
        return sum(self._listing.counts)

    @property
    def parts(self) -> Sequence[Part]:
        """The rejected rows, then the pictures in the order of their first rows."""
        pictures, refused = self._listing.counts
        rows = [Part(REFUSED, 0, refused)] if refused else []
        return [*rows, *Part.split(PICTURES, pictures, PART_PICTURES)]

    def items(self, part: Part) -> Iterator[Item | Rejected]:
        """What the part has of either."""
        if part.name == REFUSED:
            yield from self._listing.refused()
            return
        for picture in self._chosen(part):
            try:
                told = (picture.label, picture.split, picture.group)
                yield Item(picture.path, self.image(picture), self.spoken(picture), *told)
            except BadImage as error:
                yield self.rejected(picture.path, error)

    def inputs(self, part: Part) -> Sequence[str]:
        """Its pictures' files, and what else a kind reads with them."""
        if part.name == REFUSED:
            return ()
        return [str(file) for picture in self._chosen(part) if picture.held is None for file in self.files(picture)]

    def provenance(self) -> dict[str, Any]:
        """Number of pictures that are listed, and a hash of the list, rejected rows included."""
        digest, pictures = hashlib.sha256(), self._listing.counts[0]
        for row in chain(self._listing.refused(), self._listing.pictures(0, pictures)):
            digest.update(repr(row).encode())
        return {**super().provenance(), "pictures": pictures, "listed": digest.hexdigest()}

    def _chosen(self, part: Part) -> Iterator[Picture]:
        """The part's pictures."""
        return self._listing.pictures(part.start, self._listing.counts[0] if part.stop is None else part.stop)

    def _take(self, row: Told) -> None:
        """Add the row to its picture; BadImage if it cannot be."""
        said = {name: word for name in ONE_A_PICTURE if (word := texts.word(getattr(row, name), name)) is not None}
        said_split = said.pop("split", None)
        if not self.params.split and (split := understood(said_split) if said_split else row.by_file):
            said["split"] = split
        captions = texts.captions(row.captions)
        if not captions and "label" not in said and not row.later:
            raise BadImage("empty-caption", "no caption, or one of white space alone")
        if not self._listing.add(Picture(row.image, row.held, list(captions), **said)):
            self._merge(self._listing[row.image], said, captions)

    def _merge(self, picture: Picture, said: Mapping[str, str], captions: Sequence[str]) -> None:
        """Add what a further row says to the picture; BadImage if it cannot be."""
        for name, value in said.items():
            if getattr(picture, name) not in (None, value):
                raise BadImage(
                    "conflicting-row", f"{name} {value!r}, an earlier row of this image has {getattr(picture, name)!r}"
                )
        fresh = [caption for caption in captions if caption not in picture.captions]
        new = [name for name in said if getattr(picture, name) is None]
        if captions and not fresh and not new:
            raise BadImage("duplicate-row", "an earlier row of this image has this caption")
        for name in new:
            setattr(picture, name, said[name])
        picture.captions += fresh
        self._listing.replace(picture)
