"""Pictures in folders of classes, as training and evaluation take them."""

from __future__ import annotations

from pathlib import Path

from layoutkit import put

from limoe.data.formats.folders import labelled_pictures


def test_a_class_after_the_other_by_name(tmp_path: Path) -> None:
    for number, name in enumerate(("dogs/3.jpg", "cats/more/2.jpg", "cats/1.jpg", "cats/z.jpg", "cats/notes.txt")):
        put(tmp_path / name, number)
    found = [(label, path.relative_to(tmp_path).as_posix()) for label, path in labelled_pictures(tmp_path)]
    assert found == [("cats", "cats/1.jpg"), ("cats", "cats/more/2.jpg"), ("cats", "cats/z.jpg"), ("dogs", "dogs/3.jpg")]
