"""Where a set's files are: one, a folder of them, a pattern with * or {00000..00012}; here, or wherever fsspec can reach."""

from __future__ import annotations

import glob
import io
import posixpath
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, cast

from limoe.data.sources.texts import legible
from limoe.errors import Reported, UserError

MAGIC = "*?[{"
SUFFIX = re.compile(r"(\.tar)?\.[^./]+$")
UNKNOWN = (ImportError, ValueError)  # a driver that is not installed, a protocol that nobody knows


@dataclass(frozen=True)
class Place:
    """A file. name: below what the user gave, never absolute: keys, parts and messages have it. address: what opens it."""

    name: str
    address: str

    @property
    def stem(self) -> str:
        """The name without its suffix, of which `.tar.gz` is one."""
        return SUFFIX.sub("", self.name)


def is_remote(address: str) -> bool:
    """Whether it is an address and no path."""
    return "://" in address


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


@contextmanager
def opened(address: str) -> Iterator[BinaryIO]:
    """The file's bytes as a stream; OSError if there are none, UserError if a package is missing that the address needs."""
    if not is_remote(address):
        with open(address, "rb") as handle:
            yield handle
        return
    import fsspec

    with _reaching(address, UNKNOWN):
        opening = fsspec.open(address, "rb")
    with opening as handle:
        yield cast(BinaryIO, Reached(handle, address))


class Reached(io.RawIOBase):
    """A stream from elsewhere. Where it fails, that is the machine's fault and another attempt may help: nothing is rejected."""

    def __init__(self, stream: Any, address: str) -> None:
        self._stream, self._address = stream, address

    def _do(self, name: str, *arguments: int) -> Any:
        try:
            return getattr(self._stream, name)(*arguments)
        except Exception as error:  # each driver has its own
            raise Reported("machine", f"{self._address}: broke off while it was read ({' '.join(str(error).split())})") from error

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Whether the driver can."""
        return bool(self._stream.seekable())

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes."""
        found: bytes = self._do("read", size)
        return found

    def readline(self, size: int | None = -1) -> bytes:
        """Up to the next line's end, or `size` bytes."""
        found: bytes = self._do("readline", -1 if size is None else size)
        return found

    def seek(self, offset: int, whence: int = 0) -> int:
        """The new place."""
        return int(self._do("seek", offset, whence))

    def tell(self) -> int:
        """The place."""
        return int(self._do("tell"))


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

    with _reaching(pattern, (Exception,)):  # each driver has its own
        system, path = fsspec.core.url_to_fs(pattern)
        if any(sign in pattern for sign in MAGIC):
            found = sorted(system.glob(path))
        elif system.isdir(path):
            found = sorted(file for file in system.find(path) if _wanted(posixpath.relpath(file, path), suffixes))
        else:
            return [pattern]
    chain = pattern.rpartition("::")[0]
    return [f"{chain}::{system.unstrip_protocol(file)}" if chain else system.unstrip_protocol(file) for file in found]


@contextmanager
def _reaching(address: str, kinds: tuple[type[Exception], ...]) -> Iterator[None]:
    try:
        yield
    except kinds as error:
        raise UserError(f"{address}: cannot be reached: {' '.join(str(error).split())}") from None


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
