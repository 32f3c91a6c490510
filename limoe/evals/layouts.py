"""Pictures as people keep them: what each is called, where it lies, and what its layout says of it; they are opened later."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from limoe.data.formats.folders import labelled_pictures
from limoe.data.formats.splits import split_word
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
    """`root/CLASS/*.jpg`, as training takes them; UserError for what is no set of class folders."""
    found = list(labelled_pictures(root))
    return of_files(root, [path for _, path in found], [label for label, _ in found])


def of_files(root: Path, paths: Sequence[Path], labels: Iterable[str]) -> Layout:
    """Labelled files below `root`."""
    keys = tuple(name_below(root, path) for path in paths)
    return Layout(root, keys, Files(paths), tuple(labels), ((),) * len(keys))


def name_below(root: Path, file: Path) -> str:
    """What keys call a file: its path from `root`; its name, if it is `root` itself."""
    return file.name if file == root else file.relative_to(root).as_posix()


def shards(root: Path, suffix: str, split: str | None) -> list[Path]:
    """The file `root`, or all below it of this suffix, by name; of one split, where their names or folders tell it
    (`val-00000.tar`, `val/00000.tar`). UserError if they tell several and none is asked for, or none is of the one asked for."""
    found = [root] if root.is_file() else sorted(root.rglob(f"*{suffix}"))
    if not found:
        raise UserError(f"{root}: no *{suffix} files here")
    words = {file: split_word(name_below(root, file)) for file in found}
    first = {file: file.stem.split("-")[0] for file in found}
    splits = sorted({word or first[file] for file, word in words.items() if word or "-" in file.stem})
    if split is None and len(splits) > 1:
        raise UserError(f"{root}: holds the splits {', '.join(splits)}; say which with the set's key split (--split)")
    chosen = [file for file in found if split in (None, words[file], first[file])]
    if not chosen:
        raise UserError(f"{root}: no file of the split {split}; there are {', '.join(splits) or 'no splits'}")
    return chosen


def holds(root: Path, suffix: str) -> bool:
    """Whether `root` is, or has anywhere below it, a file of this suffix."""
    return root.suffix == suffix if root.is_file() else any(root.rglob(f"*{suffix}"))
