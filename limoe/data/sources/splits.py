"""Which split a picture belongs to: by a word for it in a column or a file's name, else by a hash of its group."""

from __future__ import annotations

import re
from collections.abc import Iterable

from limoe.config import SetParams
from limoe.data.schema import TRAIN
from limoe.data.sources.base import fraction
from limoe.data.verify import BadImage

SPLITS = (TRAIN, "val", "test")
WORDS = {
    **{name: name for name in SPLITS},
    **dict.fromkeys(("training", "restval"), TRAIN),  # Karpathy's rest of COCO's validation pictures is for training
    **dict.fromkeys(("valid", "validation", "dev"), "val"),
    **dict.fromkeys(("testing",), "test"),
}
WORD = re.compile(rf"(?<![a-z])({'|'.join(sorted(WORDS, key=len, reverse=True))})(?![a-z])")


def understood(said: str) -> str:
    """The split that a column's word stands for; BadImage if it is no such word."""
    if (word := said.strip().lower()) in WORDS:
        return WORDS[word]
    raise BadImage("bad-split", f"split {said[:80]!r}; allowed are {', '.join(SPLITS)}")


def named_splits(names: Iterable[str]) -> dict[str, str]:
    """File name (with its folders) -> split, where it names one; empty unless the names tell at least two splits apart.

    >>> named_splits(["train-00000.tar", "validation/00000.tar", "00000.tar"])
    {'train-00000.tar': 'train', 'validation/00000.tar': 'val'}
    >>> named_splits(["train-00000.tar", "train-00001.tar"])
    {}
    """
    found = {name: WORDS[words[-1]] for name in names if (words := WORD.findall(name.lower()))}
    return found if len(set(found.values())) > 1 else {}


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
