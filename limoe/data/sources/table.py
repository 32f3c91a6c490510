"""`table`: csv, tsv or jsonl files that name pictures in a folder, or hold them as data URIs. Rows of one image add up."""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from limoe.config import SetParams
from limoe.data.addresses import is_remote, opened
from limoe.data.formats.splits import named_splits
from limoe.data.sources import texts
from limoe.data.sources.base import Rejected
from limoe.data.sources.columns import Columns, choose
from limoe.data.sources.images import DATA, ImageFolder, decoded, inside
from limoe.data.sources.listed import Listed, Told
from limoe.data.sources.listing import Picture
from limoe.data.sources.places import Place, base_of, find
from limoe.data.sources.rows import SUFFIXES, Row, read_names, read_row, read_rows
from limoe.data.verify import BadImage
from limoe.errors import UserError
from limoe.files import sha256_file


class Table(Listed):
    """The pictures that text files name. `images`: the folder that paths start from; by default each file's own.

    Without it a picture's path is kept from the base of all files: equal names in two folders are two pictures.
    """

    def __init__(self, name: str, params: SetParams, root: Path) -> None:
        """UserError if there is no such file or folder, or a file lacks a column that is needed, or has no rows."""
        self._places = find(root, params.path, SUFFIXES)
        self._files = {place.name: place for place in self._places}
        beside = params.images is None and not is_remote(params.path)
        folder = root / base_of(root, params.path, self._places) if beside else images_folder(params, root, self._places[0])
        self._images = ImageFolder(folder, root)
        self._below = {
            place.name: os.path.relpath(Path(place.address).parent, folder) if beside else "." for place in self._places
        }
        self._columns: dict[str, list[str]] = {}
        super().__init__(name, params, root)

    def rows(self) -> Iterator[Told | Rejected]:
        """Of every file, in order."""
        splits = named_splits(self._files)
        for place in self._places:
            self._columns[place.name] = read_names(place)
            rows = read_rows(place)
            if (first := next(rows, None)) is None:
                raise UserError(f"{place.address}: has no rows")
            columns = columns_among(self._columns[place.name], self.params, place)
            self.chosen = self.chosen or columns
            for row in chain([first], rows):
                where = f"line {row.line}" if len(self._places) == 1 else f"{place.name}, line {row.line}"
                try:
                    yield self._told(row, columns, place, where, splits.get(place.name))
                except BadImage as error:
                    yield self.rejected("", error, where)

    def files(self, picture: Picture) -> Sequence[Path]:
        """The picture's."""
        return (self._images.folder / picture.path,)

    def image(self, picture: Picture) -> bytes:
        """The file's, or what the row's data URI holds: it was not kept, and is read again."""
        if picture.held is None:
            return self._images.read(picture.path)
        name, start, column = picture.held
        place = self._files[name]
        try:
            with opened(place.address) as handle:
                return self._images.fetch(read_row(handle, place, self._columns[name], start)[column])
        except (OSError, ValueError, StopIteration, KeyError):
            raise BadImage("unreadable", "its row is no longer where it was") from None

    def provenance(self) -> dict[str, Any]:
        """With the hash of each file that is here."""
        hashes = {place.name: sha256_file(Path(place.address)) for place in self._places if not is_remote(place.address)}
        return {**super().provenance(), "files": hashes}

    def _told(self, row: Row, columns: Columns, place: Place, where: str, by_file: str | None) -> Told:
        if isinstance(row.values, str):
            raise BadImage("bad-row", row.values)
        if row.values.get(columns.image) is None:
            raise BadImage("bad-row", f"{columns.image} is missing")
        if not columns.label and all(row.values.get(name) is None for name in columns.captions):
            raise BadImage("bad-row", f"{columns.captions[0]} is missing")
        image, held = row.values[columns.image], None
        if isinstance(image, str) and image.startswith(DATA):
            held = (place.name, row.start, columns.image)
            image = f"data/{hashlib.sha256(decoded(image)).hexdigest()[:32]}"
        else:
            image = inside(texts.text(image, columns.image).strip())
            if image == "." or not image:
                raise BadImage("bad-row", f"{columns.image} is empty")
            image = posixpath.normpath(posixpath.join(self._below[place.name], image))
        return Told(where, image, columns.spoken(row.values), **columns.told(row.values), by_file=by_file, held=held)


def columns_among(names: Sequence[str], params: SetParams, place: Place) -> Columns:
    """Those of a file that are read; UserError if one that is needed is not there, or several have its name."""
    columns = choose(names, params.columns, place.address)
    if twice := next((name for name in columns.used if names.count(name) > 1), None):
        raise UserError(f"{place.address}: has {names.count(twice)} columns called {twice}")
    return columns


def images_folder(params: SetParams, root: Path, beside: Place) -> Path:
    """The folder of images: `images`, else that of the file; UserError if it is no folder."""
    if params.images is None:
        return root if is_remote(beside.address) else Path(beside.address).parent
    if not (root / params.images).is_dir():
        raise UserError(f"images: {root / params.images} is no folder")
    return root / params.images
