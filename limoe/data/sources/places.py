"""Where a set's files are: one, a folder of them, a pattern with * or {00000..00012}; here, or wherever fsspec can reach."""

from __future__ import annotations

import glob
import posixpath
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from limoe.data.addresses import is_remote, reaching
from limoe.data.sources.texts import legible
from limoe.errors import UserError

MAGIC = "*?[{"
SUFFIX = re.compile(r"(\.tar)?\.[^./]+$")


@dataclass(frozen=True)
class Place:
    """A file. name: below what the user gave, never absolute: keys, parts and messages have it. address: what opens it."""

    name: str
    address: str

    @property
    def stem(self) -> str:
        """The name without its suffix, of which `.tar.gz` is one."""
        return SUFFIX.sub("", self.name)


def find(root: Path, given: str, suffixes: Sequence[str]) -> list[Place]:
    """The files that `given` (from `root`, if it is a path) names, in order; of folders those below with one of the suffixes.

    UserError if there are none, or the address cannot be reached.
    """
    import braceexpand

    try:
        patterns = list(braceexpand.braceexpand(given)) if "{" in given else [given]
    except ValueError as error:
        raise UserError(f"{given}: braces that do not match ({error})") from None
    look = _remote if is_remote(given) else _local
    by_pattern = {pattern: look(root, pattern, suffixes) for pattern in patterns}
    found = list(chain.from_iterable(by_pattern.values()))
    if found and (missing := [pattern for pattern, its in by_pattern.items() if not its]):
        raise UserError(f"{given}: no such file as {missing[0]}")
    if not found:
        raise UserError(f"{given}: no file here{f' that ends in {_listed(suffixes)}' if suffixes else ''}")
    base = _from(root, _base(root, given, found == [_from(root, given)]))
    return [Place(legible(posixpath.relpath(address, base)), address) for address in dict.fromkeys(found)]


def base_of(root: Path, given: str, places: Sequence[Place]) -> str:
    """Where the names of the places that `find` found begin: a folder from `root`, or an address, as `given` has it."""
    return _base(root, given, [place.address for place in places] == [_from(root, given)])


def counted(places: Collection[Place]) -> dict[str, int | None]:
    """Number of the files, and their bytes together; None if they lie elsewhere."""
    elsewhere = any(is_remote(place.address) for place in places)
    size = None if elsewhere else sum(Path(place.address).stat().st_size for place in places)
    return {"files": len(places), "bytes": size}


def _local(root: Path, pattern: str, suffixes: Sequence[str]) -> list[str]:
    path = root / pattern
    if path.is_dir():
        return [
            str(file)
            for file in sorted(path.rglob("*"))
            if _wanted(file.relative_to(path).as_posix(), suffixes) and file.is_file()
        ]
    if path.is_file():
        return [str(path)]
    below = glob.glob(pattern, root_dir=root, recursive=True)  # a sign in the root's own path stands for itself
    return [str(file) for name in sorted(below) if (file := root / name).is_file()]


def _remote(root: Path, pattern: str, suffixes: Sequence[str]) -> list[str]:  # noqa: ARG001  addresses are from nowhere
    import fsspec

    with reaching(pattern, (Exception,)):  # each driver has its own
        system, path = fsspec.core.url_to_fs(pattern)
        if any(sign in pattern for sign in MAGIC):
            found = sorted(system.glob(path))
        elif system.isdir(path):
            found = sorted(file for file in system.find(path) if _wanted(posixpath.relpath(file, path), suffixes))
        else:
            return [pattern]
    chain = pattern.rpartition("::")[0]
    return [f"{chain}::{system.unstrip_protocol(file)}" if chain else system.unstrip_protocol(file) for file in found]


def _wanted(name: str, suffixes: Sequence[str]) -> bool:
    return name.lower().endswith(tuple(suffixes)) and not any(part.startswith(".") for part in name.split("/"))


def _from(root: Path, given: str) -> str:
    return given if is_remote(given) else str(root / given)


def _base(root: Path, given: str, is_file: bool) -> str:
    """What names are relative to, as `given` has it: a folder that is given, else what stands before the first pattern, whatever
    is found."""
    if is_file:
        return posixpath.dirname(given)
    first = min((at for sign in MAGIC if (at := given.find(sign)) >= 0), default=None)
    if first is None or (root / given).is_dir():
        return given.rstrip("/")
    return posixpath.dirname(given[:first])


def _listed(suffixes: Sequence[Any]) -> str:
    return ", ".join(suffixes)
