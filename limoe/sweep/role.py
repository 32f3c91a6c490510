"""role.json: what a trial's directory is there for. Beside the spec and not in it: equal trainings have one directory."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from limoe.files import read_json, write_json

NAME = "role.json"
Phase = Literal["search", "final", "ablation", "seeds"]


@dataclass(frozen=True)
class Role:
    """point: number of the point, from 0 (of two with equal values the first). group: an ablation's variant, a contestant
    of further seeds, else empty."""

    point: int
    phase: Phase
    group: str = ""


def write_role(folder: Path, role: Role) -> None:
    """Write `role` beside the trial's spec, atomically."""
    write_json(folder / NAME, asdict(role))


def read_role(folder: Path) -> Role | None:
    """The role of the trial in `folder`; None before it has one."""
    path = folder / NAME
    return Role(**read_json(path)) if path.exists() else None
