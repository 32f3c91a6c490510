"""The routing analysis as files, for those that only show it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limoe.files import read_json, write_bytes, write_json

NUMBERS, STRIPS = "routing.json", "patches"


@dataclass(frozen=True)
class Analysis:
    """numbers: every figure's, as routing.json holds them. strips: JPEG of the patches, by (block, expert from 0)."""

    numbers: dict[str, Any]
    strips: dict[tuple[int, int], bytes]

    def save(self, folder: Path) -> None:
        """Write routing.json and patches/BLOCK-EXPERT.jpg; equal analyses give equal bytes."""
        write_json(folder / NUMBERS, self.numbers)
        for (block, expert), strip in self.strips.items():
            write_bytes(folder / STRIPS / f"{block}-{expert}.jpg", strip)

    @classmethod
    def load(cls, folder: Path) -> Analysis:
        """The inverse of `save`; UserError if there is none."""
        strips = {path.stem: path.read_bytes() for path in sorted((folder / STRIPS).glob("*.jpg"))}
        named = {name.partition("-")[::2]: strip for name, strip in strips.items()}
        return cls(read_json(folder / NUMBERS), {(int(block), int(expert)): strip for (block, expert), strip in named.items()})
