"""Where a result comes from: the files of code that a stage truly imports, their hash, and the git commit."""

from __future__ import annotations

import ast
import hashlib
import subprocess
from functools import cache
from pathlib import Path

PACKAGE_ROOT = Path(__file__).resolve().parent.parent


def code_files(module: str) -> list[str]:
    """Paths (relative to the repository root, sorted) of every file of `limoe` that `module` imports, itself included.

    Walks the syntax trees, so imports inside functions count too, but not those under `if TYPE_CHECKING:`, which never run.
    Importing `a.b` runs `a/__init__.py`: those count as well.
    """
    found: set[Path] = set()
    _collect(module, found)
    return sorted(path.relative_to(PACKAGE_ROOT).as_posix() for path in found)


@cache
def code_hash(module: str) -> str:
    """Hex SHA-256 over the names and contents of `code_files(module)`."""
    digest = hashlib.sha256()
    for name in code_files(module):
        digest.update(name.encode() + b"\0" + (PACKAGE_ROOT / name).read_bytes() + b"\0")
    return digest.hexdigest()


def git_commit() -> str:
    """The commit checked out here, with `+` appended if tracked files differ from it; `unknown` outside a git checkout."""
    try:
        commit = _git("rev-parse", "HEAD")
        return commit + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()


def _module_file(module: str) -> Path | None:
    base = PACKAGE_ROOT.joinpath(*module.split("."))
    for path in (base / "__init__.py", base.with_suffix(".py")):
        if path.is_file():
            return path
    return None


def _collect(module: str, found: set[Path]) -> None:
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        path = _module_file(".".join(parts[:depth]))
        if path is None or path in found:
            continue
        found.add(path)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for_types_alone = {id(inner) for node in ast.walk(tree) if _is_type_checking(node) for inner in ast.walk(node)}
        for node in ast.walk(tree):
            if id(node) not in for_types_alone:
                for name in _imported(node):
                    _collect(name, found)


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _imported(node: ast.AST) -> list[str]:
    names: list[str] = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.split(".")[0] == "limoe"]
