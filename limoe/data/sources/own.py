"""What every set of the user's own does alike, whatever kind it is: captions, classes, splits and keys as the params say."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limoe.config import PrepareParams, SetParams
from limoe.data.schema import Bond
from limoe.data.sources import texts
from limoe.data.sources.base import Candidate, Part, Rejected
from limoe.data.sources.classes import ClassNames
from limoe.data.sources.columns import Columns
from limoe.data.sources.packages import Package
from limoe.data.sources.splits import hashed_split, understood
from limoe.data.verify import BadImage
from limoe.files import sha256_file


@dataclass(frozen=True)
class Item:
    """One picture as a file has it; nothing of it is checked yet.

    key: unique in the set. captions: a text, or several. file_split: what the file's name says, where it says one. tar, offset:
    where the picture lies as it is, if it does so in a tar.
    """

    key: str
    image: bytes
    captions: Any = None
    label: Any = None
    split: Any = None
    group: Any = None
    file_split: str | None = None
    tar: str | None = None
    offset: int | None = None


class OwnSource(ABC):
    """The source `prepare.sets.NAME`; a kind adds its parts and what is in them."""

    def __init__(self, name: str, params: SetParams, root: Path) -> None:
        """UserError if the params name something that is not there."""
        self.name, self.params, self.root = name, params, root
        self.classes = ClassNames.read(params, root)
        self.chosen: Columns | None = None  # of the first file, where files have columns

    @classmethod
    def packages(cls, params: PrepareParams) -> tuple[Package, ...]:  # noqa: ARG003  none, whatever the params
        """None: the pictures are the user's."""
        return ()

    @property
    def total(self) -> int | None:
        """See Source."""
        return None

    @property
    @abstractmethod
    def parts(self) -> Sequence[Part]:
        """See Source."""

    @abstractmethod
    def items(self, part: Part) -> Iterator[Item | Rejected]:
        """What is in the part, in order."""

    @abstractmethod
    def inputs(self, part: Part) -> Sequence[str]:
        """See Source."""

    def provenance(self) -> dict[str, Any]:
        """The kind, and the hash of the file of classes, if there is one; a kind adds what its files are."""
        named = {"classes": sha256_file(self.root / self.params.classes)} if self.params.classes else {}
        return {"kind": self.params.kind, **named}

    def candidates(self, part: Part) -> Iterator[Candidate | Rejected]:
        """See Source."""
        for item in self.items(part):
            if isinstance(item, Rejected):
                yield item
                continue
            try:
                yield self.candidate(item)
            except BadImage as error:
                yield self.rejected(item.key, error)

    def candidate(self, item: Item) -> Candidate:
        """The item, checked; BadImage says why it cannot be one."""
        key = texts.key_of([self.name, item.key])
        names = self.classes.names(texts.word(item.label, "label"))
        captions = texts.captions(item.captions) or self.classes.captions(names)
        if not captions:
            raise BadImage("empty-caption", "no caption, or one of white space alone, and no label to make one of")
        group = texts.word(item.group, "group")
        named = self._named_split(texts.word(item.split, "split"), item.file_split)
        return Candidate(
            key=key,
            source=self.name,
            split=named or hashed_split(group or hashlib.sha256(item.image).hexdigest(), self.params),
            image=item.image,
            captions=captions,
            split_group=group or item.key,
            label=names[0] if names else None,
            bond=Bond(group, named is not None),
        )

    def _named_split(self, said: str | None, by_file: str | None) -> str | None:
        """The set's one split, else what the row says, else what the file's name says."""
        return self.params.split or (understood(said) if said else by_file)

    def rejected(self, key: str, error: BadImage, where: str = "") -> Rejected:
        """The row about an item of this key."""
        detail = f"{where}: {error.detail}" if where else error.detail
        return Rejected(texts.legible(f"{self.name}/{key}"), self.name, error.reason, texts.legible(detail))
