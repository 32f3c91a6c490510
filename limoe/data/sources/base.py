"""What every source is: a class that yields candidates, and says where they come from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from limoe.config import PrepareParams
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


@dataclass(frozen=True)
class Rejected:
    """An input that does not enter the set. reason: short and stable, for counting; detail: what exactly was wrong."""

    key: str
    source: str
    reason: str
    detail: str = ""


class Source(Protocol):
    """A source of candidates. `root` is the folder that relative paths in the params start from."""

    def __init__(self, params: PrepareParams, root: Path) -> None:
        """Read what says how much there is; UserError if the params name something that is not there."""

    @classmethod
    def packages(cls, params: PrepareParams) -> tuple[Package, ...]:
        """The installed packages that it reads, to be checked against data/sources.yaml."""

    @property
    def total(self) -> int:
        """How many candidates it will yield, rejected ones included."""

    def candidates(self) -> Iterator[Candidate | Rejected]:
        """Every input, once, always in the same order; lazily, so that a large source never lies in memory."""

    def provenance(self) -> dict[str, Any]:
        """What of it goes into the manifest beside the packages: plain values, no absolute path."""


def fraction(salt: str, name: str) -> float:
    """A number in [0, 1) that depends on `salt` and `name` alone: what splits by a stable hash compare with their shares."""
    digest = hashlib.sha256(f"{salt}/{name}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
