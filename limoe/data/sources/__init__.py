"""The registry of sources, those that come with the package and the kinds of a user's own: a new one is one file and one line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from limoe.config import PrepareParams, SetParams
from limoe.config.sets import IN_TARS
from limoe.data.sources.auto import recognised
from limoe.data.sources.base import Candidate, Part, Rejected, Source, candidates, fraction
from limoe.data.sources.captioned import Captioned
from limoe.data.sources.emoji import EmojiSource
from limoe.data.sources.huggingface import HuggingFace
from limoe.data.sources.imagefolder import ImageFolderSet
from limoe.data.sources.own import OwnSource
from limoe.data.sources.packages import Package, check_packages, write_packages
from limoe.data.sources.parquet import Parquet
from limoe.data.sources.scenes import ScenesSource
from limoe.data.sources.sidecar import Sidecar
from limoe.data.sources.table import Table
from limoe.data.sources.webdataset import WebDataset
from limoe.errors import UserError, did_you_mean
from limoe.paramsfile import explain
from limoe.paths import Paths

__all__ = [
    "KINDS",
    "SOURCES",
    "Candidate",
    "Part",
    "Rejected",
    "Source",
    "build",
    "candidates",
    "check_sources",
    "fraction",
    "open_set",
    "write_sources",
]

SOURCES: dict[str, type[Source]] = {
    "emoji": EmojiSource,
    "scenes": ScenesSource,
}
KINDS: Mapping[str, Callable[[str, SetParams, Path], OwnSource]] = {
    "webdataset": WebDataset,
    "parquet": Parquet,
    "table": Table,
    "sidecar": Sidecar,
    "coco": Captioned,
    "flickr": Captioned,
    "imagefolder": ImageFolderSet,
    "huggingface": HuggingFace,
}


def build(params: PrepareParams, root: Path) -> dict[str, Source]:
    """The chosen sources by name, in the order of `params.sources`; UserError for a name that stands for none."""
    check_names(params)
    return {name: SOURCES[name](params, root) if name in SOURCES else _own(name, params, root) for name in params.sources}


def open_set(name: str, params: SetParams, root: Path) -> OwnSource:
    """A set of the user's own; UserError if it is not as its kind has to be."""
    kind = recognised(params, root) if params.kind == "auto" else params.kind
    if params.in_place and kind not in IN_TARS:
        raise UserError(f"in_place is for tars (webdataset), and {params.path} is read as {kind}: set it to false")
    try:
        as_read = SetParams.model_validate(params.model_dump() | {"kind": kind})
    except ValidationError as error:
        raise UserError(f"{params.path} is read as {kind}: {explain(error, SetParams)}") from None
    return KINDS[kind](name, as_read, root)


def _own(name: str, params: PrepareParams, root: Path) -> Source:
    try:
        return open_set(name, params.sets[name], root)
    except UserError as error:
        raise UserError(f"prepare.sets.{name}: {error}") from None


def check_names(params: PrepareParams) -> None:
    """UserError, with the nearest name, if one of `params.sources` is neither in the registry nor among `params.sets`."""
    known = sorted({*SOURCES, *params.sets})
    for name in params.sources:
        if name not in known:
            guess = did_you_mean(name, known) or "; name a set of your own in prepare.sets"
            raise UserError(f"prepare.sources: there is no source {name!r}, but {', '.join(known)}{guess}")


def check_sources(params: PrepareParams, paths: Paths) -> dict[str, dict[str, Any]]:
    """The installed packages that the chosen sources read, by distribution; UserError if data/sources.yaml says otherwise."""
    check_names(params)
    return check_packages(_packages(params, params.sources), paths.sources)


def write_sources(params: PrepareParams, paths: Paths) -> None:
    """Write data/sources.yaml from the packages that are installed, for every source of the registry."""
    write_packages(_packages(params, SOURCES), paths.sources)


def _packages(params: PrepareParams, names: Iterable[str]) -> list[Package]:
    used = {package for name in names if name in SOURCES for package in SOURCES[name].packages(params)}
    return sorted(used, key=lambda package: package.distribution)
