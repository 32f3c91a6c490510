"""What the names of files and of their folders say of splits."""

from __future__ import annotations

import re
from collections.abc import Iterable

from limoe.data.schema import TRAIN

SPLITS = (TRAIN, "val", "test")
WORDS = {
    **{name: name for name in SPLITS},
    **dict.fromkeys(("training", "restval"), TRAIN),  # Karpathy's rest of COCO's validation pictures is for training
    **dict.fromkeys(("valid", "validation", "dev"), "val"),
    **dict.fromkeys(("testing",), "test"),
}
WORD = re.compile(rf"(?<![a-z])({'|'.join(sorted(WORDS, key=len, reverse=True))})(?![a-z])")


def split_word(name: str) -> str | None:
    """The last word for a split in a file's name (with its folders), as it stands there, in small letters.

    >>> split_word("Validation/cars-00000.tar"), split_word("00000.tar")
    ('validation', None)
    """
    words: list[str] = WORD.findall(name.lower())
    return words[-1] if words else None


def named_splits(names: Iterable[str]) -> dict[str, str]:
    """File name (with its folders) -> split, where it names one; empty unless the names tell at least two splits apart.

    >>> named_splits(["train-00000.tar", "validation/00000.tar", "00000.tar"])
    {'train-00000.tar': 'train', 'validation/00000.tar': 'val'}
    >>> named_splits(["train-00000.tar", "train-00001.tar"])
    {}
    """
    found = {name: WORDS[word] for name in names if (word := split_word(name))}
    return found if len(set(found.values())) > 1 else {}
