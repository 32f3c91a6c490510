"""What an evaluation tells of pictures that the training has seen (limoe.evals.leakage finds them)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Seen:
    """A picture that the training has seen. key: its own. training: that of the first training picture that it repeats. exact:
    whether the bytes are the same."""

    key: str
    training: str
    exact: bool


@dataclass(frozen=True)
class Leakage:
    """What of a set is training data. n: its pictures. plain: those too plain to have a perceptual hash, which are compared byte
    for byte alone. seen: those that repeat a training picture, in the set's order. probed: labelled ones that are byte for byte
    among the pictures that the set's own linear probes learn from."""

    set: str
    n: int
    plain: int
    seen: tuple[Seen, ...]
    probed: int = 0

    @property
    def exact(self) -> int:
        """How many are a training picture byte for byte."""
        return sum(picture.exact for picture in self.seen)

    @property
    def near(self) -> int:
        """How many others are nearly one."""
        return len(self.seen) - self.exact

    @property
    def sentence(self) -> str:
        """How many there are, if any.

        >>> Leakage("val", 9, 0, (Seen("a", "b", True), Seen("c", "b", False))).sentence
        '2 of the 9 pictures of val are training pictures or resemble one (1 byte for byte, 1 nearly)'
        """
        parts = [f"{count:,} {how}" for count, how in ((self.exact, "byte for byte"), (self.near, "nearly")) if count]
        count = f"{len(self.seen):,} of the {self.n:,} pictures of {self.set}"
        return f"{count} are training pictures or resemble one ({', '.join(parts)})"

    @property
    def sentences(self) -> list[str]:
        """All that there is to say, if anything.

        >>> Leakage("birds", 9, 0, (), 3).sentences
        ['3 of the 9 pictures of birds are byte for byte among those that its probes learn from, which flatters their scores']
        """
        probes = (
            f"{self.probed:,} of the {self.n:,} pictures of {self.set} are byte for byte among those that its probes learn from, "
            "which flatters their scores"
        )
        return [*([self.sentence] if self.seen else []), *([probes] if self.probed else [])]

    def row(self) -> dict[str, Any]:
        """As leakage.json has it."""
        counts = {"n": self.n, "exact": self.exact, "near": self.near, "plain": self.plain, "probed": self.probed}
        return {"set": self.set} | counts | {"seen": [asdict(picture) for picture in self.seen]}

    @classmethod
    def of(cls, row: dict[str, Any]) -> Leakage:
        """The inverse of `row`."""
        return cls(row["set"], row["n"], row["plain"], tuple(Seen(**picture) for picture in row["seen"]), row["probed"])
