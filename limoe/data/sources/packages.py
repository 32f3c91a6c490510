"""Packaged data: which version and which content is installed, and whether that is what data/sources.yaml says.

DVC cannot see an upgraded package. It sees data/sources.yaml, a dep of `prepare`; the check makes the file tell the truth.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from limoe import files
from limoe.errors import UserError
from limoe.paramsfile import read_yaml

HEADER = """\
# The packages that the embedded pictures and names come from: version, files used, and SHA-256 over their paths and contents.
# `prepare` refuses to run if what is installed differs. `limoe sources --write` writes this file from what is installed.
"""
REFRESH = "install the pinned packages, or accept what is installed with `limoe sources --write`"


@dataclass(frozen=True)
class Package:
    """A package whose files are data. pattern: which of its files are used, a glob below the module; empty if only code is."""

    distribution: str
    module: str
    pattern: str
    licence: str
    attribution: str

    def folder(self) -> Path:
        """Where it is installed; UserError if it is not."""
        spec = importlib.util.find_spec(self.module)  # finds it without importing it
        if spec is None or spec.origin is None:
            raise UserError(f"the package {self.distribution} is not installed; pip install {self.distribution}")
        return Path(spec.origin).parent

    def paths(self) -> list[Path]:
        """The files used, sorted."""
        return sorted(self.folder().glob(self.pattern)) if self.pattern else []

    def describe(self) -> dict[str, Any]:
        """Version and content of what is installed, licence and attribution."""
        folder, paths = self.folder(), self.paths()
        described: dict[str, Any] = {"version": metadata.version(self.distribution)}
        if paths:
            described |= {"files": len(paths), "sha256": _content_hash(folder, paths)}
        return described | {"licence": self.licence, "attribution": self.attribution}


def write_packages(packages: Iterable[Package], path: Path) -> None:
    """Write `path` (data/sources.yaml) from what is installed."""
    described = {package.distribution: package.describe() for package in packages}
    files.write_text(path, HEADER + yaml.safe_dump(described, allow_unicode=True, width=130))


def check_packages(packages: Iterable[Package], path: Path) -> dict[str, dict[str, Any]]:
    """What is installed, by distribution; UserError naming the first package that differs from what `path` says, and how."""
    needed = list(packages)
    recorded = read_yaml(path) if needed else {}
    described = {package.distribution: package.describe() for package in needed}
    for name, installed in described.items():
        if difference := _difference(installed, recorded.get(name)):
            raise UserError(f"{path}: {name} {difference}; {REFRESH}")
    return described


def _content_hash(folder: Path, paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.relative_to(folder).as_posix()} {files.sha256_file(path)}\n".encode())
    return digest.hexdigest()


def _difference(installed: Mapping[str, Any], recorded: Any) -> str:
    """How `installed` differs from `recorded`, as the rest of a sentence; empty if it does not."""
    if not isinstance(recorded, Mapping):
        return "is not recorded there"
    for field in ("version", "files", "sha256"):
        if installed.get(field) != recorded.get(field):
            return f"is installed with {field} {installed.get(field)}, recorded is {recorded.get(field)}"
    return ""
