"""The registry of sources: a new one is one new file and one line here."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from limoe.config import PrepareParams
from limoe.data.sources.base import Candidate, Part, Rejected, Source, candidates, fraction
from limoe.data.sources.emoji import EmojiSource
from limoe.data.sources.folder import FolderSource
from limoe.data.sources.packages import Package, check_packages, write_packages
from limoe.data.sources.scenes import ScenesSource
from limoe.errors import UserError
from limoe.paths import Paths

__all__ = [
    "SOURCES",
    "Candidate",
    "Part",
    "Rejected",
    "Source",
    "build",
    "candidates",
    "check_sources",
    "fraction",
    "write_sources",
]

SOURCES: dict[str, type[Source]] = {
    "emoji": EmojiSource,
    "folder": FolderSource,
    "scenes": ScenesSource,
}


def build(params: PrepareParams, root: Path) -> dict[str, Source]:
    """The chosen sources by name, in the order of `params.sources`; UserError for a name that the registry does not have."""
    return {name: source_class(name)(params, root) for name in params.sources}


def source_class(name: str) -> type[Source]:
    """The source of this name; UserError lists the registry and the nearest name."""
    if name in SOURCES:
        return SOURCES[name]
    close = difflib.get_close_matches(name, SOURCES, n=1, cutoff=0.5)
    guess = f"; did you mean {close[0]}?" if close else ""
    raise UserError(f"prepare.sources: there is no source {name!r}; the registry has {', '.join(sorted(SOURCES))}{guess}")


def check_sources(params: PrepareParams, paths: Paths) -> dict[str, dict[str, Any]]:
    """The installed packages that the chosen sources read, by distribution; UserError if data/sources.yaml says otherwise."""
    return check_packages(_packages(params, params.sources), paths.sources)


def write_sources(params: PrepareParams, paths: Paths) -> None:
    """Write data/sources.yaml from the packages that are installed, for every source of the registry."""
    write_packages(_packages(params, SOURCES), paths.sources)


def _packages(params: PrepareParams, names: Iterable[str]) -> list[Package]:
    used = {package for name in names for package in source_class(name).packages(params)}
    return sorted(used, key=lambda package: package.distribution)
