"""Which split a picture belongs to: by a word for it in a column or a file's name, else by a hash of its group."""

from __future__ import annotations

from collections.abc import Iterable

from limoe.config import SetParams
from limoe.data.formats.splits import SPLITS, WORDS
from limoe.data.schema import TRAIN
from limoe.data.sources.base import fraction
from limoe.data.verify import BadImage


def understood(said: str) -> str:
    """The split that a column's word stands for; BadImage if it is no such word."""
    if (word := said.strip().lower()) in WORDS:
        return WORDS[word]
    raise BadImage("bad-split", f"split {said[:80]!r}; allowed are {', '.join(SPLITS)}")


def folder_splits(paths: Iterable[str]) -> dict[str, str]:
    """First folder -> split, of those that are called like one; empty unless they tell at least two splits apart.

    >>> folder_splits(["train/a.jpg", "valid/sub/b.jpg", "train.jpg", "dogs/c.jpg"])
    {'train': 'train', 'valid': 'val'}
    """
    folders = dict.fromkeys(folder for path in paths if (folder := path.partition("/")[0]) != path)
    found = {folder: WORDS[folder.lower()] for folder in folders if folder.lower() in WORDS}
    return found if len(set(found.values())) > 1 else {}


def hashed_split(group: str, params: SetParams) -> str:
    """The split that the group's hash chooses, in the shares that the params ask for."""
    place = fraction("split", group)
    if place < params.test_fraction:
        return "test"
    return "val" if place < params.test_fraction + params.val_fraction else TRAIN
