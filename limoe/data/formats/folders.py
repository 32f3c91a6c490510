"""Folders of pictures."""

from __future__ import annotations

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


def class_pictures(root: Path) -> list[Path]:
    """`root/CLASS/*.jpg`, a class after the other. UserError if there are no class folders, one is empty, or pictures lie beside
    them."""
    if loose := pictures_in(root):
        raise UserError(f"{root}: {loose[0].name} lies beside the class folders; a picture must lie in the folder of its class")
    found: list[Path] = []
    for folder in subfolders(root):
        if not (mine := pictures_in(folder)):
            raise UserError(f"{folder}: a class folder without a picture; allowed suffixes are {', '.join(SUFFIXES)}")
        found += mine
    if not found:
        raise UserError(f"{root}: no class folders here; pictures must lie in {root.name}/CLASS/*.jpg")
    return found
