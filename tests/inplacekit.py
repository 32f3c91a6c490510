"""For the tests of sets that are trained from in place: one project of tars, prepared with and without it."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from layoutkit import tar
from picturekit import encoded, photo
from preparekit import params_with

from limoe.data.prepared import Prepared
from limoe.data.schema import TRAIN
from limoe.paths import Paths
from limoe.stages import prepare

Picture = Callable[[int], bytes]


def jpeg(number: int) -> bytes:
    """A picture like a photo, of a few kilobytes, unlike that of any other number."""
    return encoded(photo(number, 80, 60), "JPEG", quality=85)


def photos(folder: Path, tars: int = 3, each: int = 20, picture: Picture = jpeg) -> Path:
    """Tars of numbered samples: of ten in a row the eighth is for validation, and the ninth for tests; every fourth has a label
    beside its captions."""
    for number in range(tars):
        samples = {}
        for place in range(number * each, (number + 1) * each):
            told: dict[str, object] = {"captions": [f"Picture {place}", f"number {place} of a row"]}
            told |= {"label": f"kind {place % 8}"} if place % 4 == 0 else {}
            told |= {7: {"split": "val"}, 8: {"split": "test"}}.get(place % 10, {"split": "train"})
            samples[f"sub/{place:05d}"] = {"json": json.dumps(told).encode(), "jpg": picture(place), "other": bytes(700)}
        tar(folder, samples, name=f"{number:05d}")
    return folder


def prepared(root: Path, in_place: bool, *changes: str, path: str = "data/raw/photos") -> Prepared:
    """The set `photos` of the project `root`, prepared there."""
    said = f"prepare.sets={{photos: {{path: '{path}', in_place: {str(in_place).lower()}}}}}"
    params = params_with(
        "prepare.sources=[photos]",
        "prepare.tokenizer.vocab_size=200",
        "train.mixture={photos: 1}",
        "machine.prepare_workers=1",
        said,
        *changes,
    )
    prepare.run(params, Paths(root))
    return Prepared(Paths(root).prepared)


def both(root: Path, *changes: str, picture: Picture = jpeg) -> tuple[Prepared, Prepared]:
    """The same tars prepared as copies and in place, in two projects below `root`."""
    found = []
    for name, in_place in (("copied", False), ("staying", True)):
        photos(root / name / "data" / "raw" / "photos", picture=picture)
        found.append(prepared(root / name, in_place, *changes))
    return found[0], found[1]


def members(path: Path) -> Mapping[str, bytes]:
    """What Python's own reader finds in a tar, by name."""
    with tarfile.open(path) as archive:
        return {entry.name: archive.extractfile(entry).read() for entry in archive if entry.isfile()}  # type: ignore[union-attr]


def training_keys(found: Prepared) -> Sequence[str]:
    """Of the training rows, in order."""
    keys: list[str] = found.table(TRAIN, ["key"])["key"].to_pylist()
    return keys
