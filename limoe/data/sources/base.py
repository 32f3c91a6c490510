"""What every source is: a class that yields candidates, and says where they come from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from limoe.config import PrepareParams
from limoe.data.schema import Bond, InTar
from limoe.data.sources.packages import Package


@dataclass(frozen=True)
class Candidate:
    """A record before ingest has looked at it; the fields are those of schema.Record.

    size: (width, height) in px where the source itself encoded the picture and so vouches for it; None makes ingest decode it.
    """

    key: str
    source: str
    split: str
    image: bytes
    captions: tuple[str, ...]
    split_group: str
    label: str | None = None
    size: tuple[int, int] | None = None
    stays: InTar | None = None
    bond: Bond | None = None


@dataclass(frozen=True)
class Rejected:
    """An input that does not enter the set. reason: short and stable, for counting; detail: what exactly was wrong."""

    key: str
    source: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Part:
    """A share of a source that is read on its own: by whichever process, and again as a whole if that one is killed.

    name: what is read, unique together with `start`: a split, a file. start, stop: which inputs of it; stop None: to its end.
    """

    name: str
    start: int = 0
    stop: int | None = None

    @classmethod
    def split(cls, name: str, total: int, size: int) -> list[Part]:
        """`total` inputs in parts of at most `size`.

        >>> Part.split("train", 5, 3)
        [Part(name='train', start=0, stop=3), Part(name='train', start=3, stop=5)]
        """
        return [cls(name, start, min(start + size, total)) for start in range(0, total, size)]


class Source(Protocol):
    """A source of candidates. `root` is the folder that relative paths in the params start from.

    A source made again from equal params has equal parts, and an equal part yields equal candidates.
    """

    def __init__(self, params: PrepareParams, root: Path) -> None:
        """Read what says how much there is; UserError if the params name something that is not there."""

    @classmethod
    def packages(cls, params: PrepareParams) -> tuple[Package, ...]:
        """The installed packages that it reads, to be checked against data/sources.yaml."""

    @property
    def total(self) -> int | None:
        """How many candidates it will yield, rejected ones included; None if that shows only as it is read."""

    @property
    def parts(self) -> Sequence[Part]:
        """What it consists of, in the order of the set: each some seconds of work, so that little is lost with a process."""

    def candidates(self, part: Part) -> Iterator[Candidate | Rejected]:
        """Every input of the part, once, always in the same order; lazily, so that a large part never lies in memory."""

    def inputs(self, part: Part) -> Sequence[str]:
        """Paths and addresses of the files that the part is read from. A part that a killed run has finished is read again if one
        has changed (limoe.data.sources.states); those of packages and what `provenance` hashes need no mention."""

    def provenance(self) -> dict[str, Any]:
        """What of it goes into the manifest beside the packages: plain values, no absolute path."""


def candidates(source: Source) -> Iterator[Candidate | Rejected]:
    """Those of all its parts, in order."""
    for part in source.parts:
        yield from source.candidates(part)


def fraction(salt: str, name: str) -> float:
    """A number in [0, 1) that depends on `salt` and `name` alone: what splits by a stable hash compare with their shares."""
    digest = hashlib.sha256(f"{salt}/{name}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
