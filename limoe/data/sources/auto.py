"""`auto`: which kind of set lies at a path, from the names of what is there, and the first lines of what may be Flickr's."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path, PurePosixPath

from limoe.config import SetParams
from limoe.config.sets import Kind
from limoe.data.addresses import is_remote
from limoe.data.formats.captioned import FLICKR
from limoe.data.formats.folders import SUFFIXES as PICTURES
from limoe.data.sources import captioned, huggingface, parquet, rows, webdataset
from limoe.data.sources.places import Place, find
from limoe.errors import UserError

LOOKED_AT = 200_000  # names of a folder, at most
PACKED: Mapping[Kind, tuple[str, ...]] = {  # in this order: img2dataset lays a Parquet file of facts beside each tar or folder
    "huggingface": huggingface.SUFFIXES,
    "webdataset": webdataset.TARS,
    "parquet": parquet.SUFFIXES,
}
KNOWN = "tars, Parquet, Arrow, csv, tsv or jsonl files, captions of COCO or Flickr, pictures with a .txt each, folders of classes"


def recognised(params: SetParams, root: Path) -> Kind:
    """The kind of the set; UserError if it is none of them."""
    given = params.path
    if is_remote(given):
        places = find(root, given, sum((*PACKED.values(), rows.SUFFIXES), ()))
    elif (root / given).is_dir():
        places = [Place(name, str(root / given / name)) for name in islice(_below(root / given), LOOKED_AT)]
    else:
        places = find(root, given, ())
    names = [place.name for place in places]
    kind = (_packed(names) or _captions(places) or _loose(names)) if names else None
    if kind == "parquet" and _loose(names) == "sidecar":
        kind = "sidecar"
    if kind in (None, "imagefolder") and (odd := next(filter(_is_named_as_flickrs, places), None)):
        raise UserError(
            f"{given}: {odd.name} begins as no file of Flickr's (NAME#0<tab>CAPTION, or the line image,caption); name it .csv or "
            ".tsv if it is a table, or say the set's kind"
        )
    if not kind:
        raise UserError(f"{given}: holds none of what is known: {KNOWN}")
    return kind


def _packed(names: list[str]) -> Kind | None:
    endings = {name.lower() for name in names}
    return next((kind for kind, suffixes in PACKED.items() if any(name.endswith(suffixes) for name in endings)), None)


def _captions(places: list[Place]) -> Kind | None:
    files = {PurePosixPath(place.name).name for place in places}
    if any(captioned.JSON.fullmatch(file) for file in files) or all(file.lower().endswith(".json") for file in files):
        return "coco"
    if any(file.endswith(".token") for file in files) or any(map(captioned.is_flickrs, filter(_is_named_as_flickrs, places))):
        return "flickr"
    return "table" if any(file.lower().endswith(rows.SUFFIXES) for file in files) else None


def _is_named_as_flickrs(place: Place) -> bool:
    return PurePosixPath(place.name).name in FLICKR


def _loose(names: list[str]) -> Kind | None:
    """Of pictures that lie in folders: with texts beside them, or each in the folder of its class."""
    pictures = [PurePosixPath(name) for name in names if name.lower().endswith(PICTURES)]
    there = set(names)
    if any(str(picture.with_suffix(".txt")) in there for picture in pictures):
        return "sidecar"
    return "imagefolder" if any(len(picture.parts) > 1 for picture in pictures) else None


def _below(folder: Path) -> Iterator[str]:
    """The visible files below a folder, without going through links."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.relpath(os.path.join(place, file), folder) for file in sorted(files) if not file.startswith("."))
