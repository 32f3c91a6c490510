"""Flickr8k's WebDataset tars (a picture and a json of captions each) as a folder for the source `folder`."""

from __future__ import annotations

import csv
import json
import tarfile
from pathlib import Path


def unpack(flickr: Path, root: Path) -> None:
    """From the tars in `flickr`: `root`/images and `root`/captions.csv, with the splits that the tars are named after."""
    (root / "images").mkdir()
    with (root / "captions.csv").open("w", newline="", encoding="utf-8") as handle:
        rows = csv.writer(handle)
        rows.writerow(["image", "caption", "split"])
        for shard in sorted(flickr.glob("*.tar")):
            with tarfile.open(shard) as members:
                for member in members:
                    name, suffix = Path(member.name).stem, Path(member.name).suffix
                    content = members.extractfile(member)
                    assert content is not None
                    if suffix == ".jpg":
                        (root / "images" / f"{name}.jpg").write_bytes(content.read())
                    elif suffix == ".json":
                        captions = json.loads(content.read())["captions"]
                        rows.writerows([f"{name}.jpg", caption, shard.name.split("-")[0]] for caption in captions)
