"""Pictures as people keep them: what each is called, where it lies, and what its layout says of it; they are opened later."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from limoe.data.formats.folders import class_pictures
from limoe.errors import UserError
from limoe.evals.pictures import Files, Part, Pictures


@dataclass(frozen=True)
class Layout:
    """N pictures. labels: a folder's name or what a file says (numbers as they are written); all None where there are none.
    captions: none or several. names: class names that a file itself tells by number, where it does."""

    where: Path
    keys: tuple[str, ...]
    pictures: Pictures
    labels: tuple[str | None, ...]
    captions: tuple[tuple[str, ...], ...]
    names: tuple[str, ...] = ()

    def take(self, rows: Sequence[int]) -> Layout:
        """Some of the pictures."""
        return replace(
            self,
            keys=tuple(self.keys[row] for row in rows),
            pictures=Part(self.pictures, rows),
            labels=tuple(self.labels[row] for row in rows),
            captions=tuple(self.captions[row] for row in rows),
        )


def class_folders(root: Path) -> Layout:
    """`root/CLASS/*.jpg`. UserError if there are no class folders, one is empty, or pictures lie beside them."""
    found = list(class_pictures(root))
    return of_files(root, found, [path.parent.name for path in found])


def of_files(root: Path, paths: Sequence[Path], labels: Iterable[str]) -> Layout:
    """Labelled files below `root`."""
    keys = tuple(path.relative_to(root).as_posix() for path in paths)
    return Layout(root, keys, Files(paths), tuple(labels), ((),) * len(keys))


def shards(root: Path, suffix: str, split: str | None) -> list[Path]:
    """The file `root`, or all below it of this suffix, by name; of one split, where names begin with it (`val-00000.tar`)."""
    found = [root] if root.is_file() else sorted(root.rglob(f"*{suffix}"))
    if not found:
        raise UserError(f"{root}: no *{suffix} files here")
    splits = sorted({file.stem.split("-")[0] for file in found if "-" in file.stem})
    if split is None and len(splits) > 1:
        raise UserError(f"{root}: holds the splits {', '.join(splits)}; say which with the set's key split (--split)")
    chosen = [file for file in found if split in (None, file.stem.split("-")[0])]
    if not chosen:
        raise UserError(f"{root}: no file of the split {split}; there are {', '.join(splits) or 'no splits'}")
    return chosen


def holds(root: Path, suffix: str) -> bool:
    """Whether `root` is, or has anywhere below it, a file of this suffix."""
    return root.suffix == suffix if root.is_file() else any(root.rglob(f"*{suffix}"))
