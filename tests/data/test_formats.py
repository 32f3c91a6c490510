"""What training and evaluation read alike: words for splits, and names in lists of splits."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

from limoe.data.formats import splits
from limoe.data.formats.captioned import SplitLists


def test_the_examples_in_docstrings_are_true() -> None:
    results = doctest.testmod(splits)
    assert (results.failed, results.attempted > 0) == (0, True)


@pytest.mark.parametrize(
    "name, word",
    [
        ("Test/train/0.tar", "train"),
        ("train2017.json", "train"),
        ("web_val-0.tar", "val"),
        ("trainer/0.tar", None),
        ("minival-0.tar", None),
    ],
)
def test_a_word_for_a_split_stands_alone_and_the_last_counts(name: str, word: str | None) -> None:
    assert splits.split_word(name) == word


@pytest.mark.parametrize(
    "name, known",
    [
        ("a/1.jpg", "a/1.jpg"),
        ("./a//1.jpg", "a/1.jpg"),
        ("b/1.jpg", None),  # of another folder than any 1.jpg in the list
        ("1.jpg", None),  # there are two
        ("2.jpg", "c/2"),
        ("c/2.webp", "c/2"),
        ("2", "c/2"),
        ("d/3.png", "3"),
        ("3.txt", None),  # no picture's suffix
        ("4.JPG", None),
        ("4.jpg", "4.jpg"),
        ("4.jpg.png", None),
    ],
)
def test_a_listed_name_is_found_whatever_captions_tell_of_its_path(tmp_path: Path, name: str, known: str | None) -> None:
    (tmp_path / "test.txt").write_text("a/1.jpg\nz/1.jpg\nc/2\n3\n4.jpg\n3\n")
    lists = SplitLists({tmp_path / "test.txt": "test"})
    assert lists.names == ["a/1.jpg", "z/1.jpg", "c/2", "3", "4.jpg"]
    assert lists.find(name) == known
