"""Folders of pictures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from limoe.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


def subfolders(root: Path) -> list[Path]:
    """The visible folders in `root`, by name; UserError if it is none."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def pictures_in(folder: Path) -> list[Path]:
    """The visible files in `folder` with a picture's suffix, by name; UserError if it is none."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))


def pictures_below(root: Path, ahead: str = "") -> Iterator[str]:
    """Paths in `root` of the visible pictures in it and its folders, links to folders left out, in the order of the paths' parts.

    In memory are the names of one folder, and of those that it lies in. ahead: stands before each path. A folder that may not be
    read holds nothing.
    """
    try:
        with os.scandir(root / ahead) as entries:
            found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries if entry.name[0] != ".")
    except PermissionError:
        return
    for name, folder in found:
        if folder:
            yield from pictures_below(root, f"{ahead}{name}/")
        elif name.lower().endswith(SUFFIXES):
            yield ahead + name


def labelled_pictures(root: Path) -> Iterator[tuple[str, Path]]:
    """Class and picture: `root/CLASS/*.jpg`, and what lies in folders below a class; one folder is in memory.

    UserError if there are no class folders, one holds no picture itself, or pictures lie beside them.
    """
    if loose := pictures_in(root):
        raise UserError(f"{root}: {loose[0].name} lies beside the class folders; a picture must lie in the folder of its class")
    classes = subfolders(root)
    for folder in classes:
        if not pictures_in(folder):
            raise UserError(f"{folder}: a class folder without a picture of its own; allowed suffixes are {', '.join(SUFFIXES)}")
        yield from ((folder.name, folder / name) for name in pictures_below(folder))
    if not classes:
        raise UserError(f"{root}: no class folders here; pictures must lie in {root.name}/CLASS/*.jpg")
