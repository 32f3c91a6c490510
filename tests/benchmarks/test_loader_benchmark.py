"""`python -m benchmarks.loader` end to end at tiny shapes, and that all subjects do the same to the same pictures."""

from __future__ import annotations

import io
import tarfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from benchkit import checked, ratios
from PIL import Image

from benchmarks.loader import SIDE, decode_and_resize, decode_and_resize_by_pillow, main, open_ours, params_of
from benchmarks.loader_files import enlarged, photos, tiny, write
from limoe.data.prepared import Prepared


def test_every_subject_takes_its_turn_and_bars_are_for_ours(tmp_path: Path) -> None:
    path = tmp_path / "loader.json"
    main(["--quick", "--threads", "1", "--device", "cpu", "--workers", "1", "--json", str(path)])
    report = checked(path)
    names = ("limoe", "limoe, in place", "webdataset", "ImageFolder", "ceiling", "ceiling, Pillow")
    for side in (512, 128):
        case = f"files of {side} px, 1 worker, 8 a batch"
        assert ratios(report, case).keys() >= {(name, "ceiling") for name in names}
        assert any(note.startswith(f"{case}: images/s: limoe ") for note in report["notes"])
    assert ratios(report, "resident memory").keys() == {(f"epoch {n}", "epoch 1") for n in (1, 2, 3)}
    assert ("2,000 rows", "allowed") in ratios(report, "time to the first batch")
    judged = [(row["name"], round(row["bar"], 3)) for row in report["rows"] if row["bar"] is not None]
    assert judged == [("limoe", 1.176), ("limoe", 0.769), ("limoe", 1.176), ("epoch 3", 1.05), ("2,000 rows", 1.0)]


def test_all_forms_hold_the_same_bytes(tmp_path: Path) -> None:
    images = photos([], 12)
    files = write(images, tmp_path / "files")
    assert sorted(path.read_bytes() for path in files.folder.rglob("*.jpg")) == sorted(images)
    found = []
    for shard in files.shards:
        with tarfile.open(shard) as archive:
            found += [archive.extractfile(member).read() for member in archive]  # type: ignore[union-attr]
    assert sorted(found) == sorted(images)
    for root in (files.prepared, files.staying):
        with closing(open_ours(root, params_of(4, 1))) as loader:
            seen = {key for _ in range(3) for key in next(loader).pairs.keys}
        assert seen == {f"photos/{number}" for number in range(12)}
        table = Prepared(root).table("train", ["key", "image"]).to_pydict()
        assert dict(zip(table["key"], table["image"], strict=True)) == {f"photos/{n}": image for n, image in enumerate(images)}
    assert pq.read_table(files.staying / "train-00000.parquet", columns=["image"])["image"].null_count == 12


def test_pictures_that_repeat_are_told_apart_and_look_alike(tmp_path: Path) -> None:
    """A picture in place counts as itself, and no batch holds one twice."""
    files = write(photos([], 6) * 2, tmp_path / "files")
    assert len(set(files.images)) == 12
    box = (0.0, 0.0, 1.0, 1.0)
    assert torch.equal(decode_and_resize(files.images[7], box), decode_and_resize(files.images[1], box))


@pytest.mark.parametrize("side", [128, 512])
def test_both_ceilings_make_the_same_picture(side: int) -> None:
    image = enlarged(photos([], 1)[0], side)
    assert min(Image.open(io.BytesIO(image)).size) == side
    box = (0.1, 0.05, 0.7, 0.9)
    ours = decode_and_resize(image, box).permute(1, 2, 0).numpy()
    theirs = np.asarray(decode_and_resize_by_pillow(image, box))
    assert ours.shape == theirs.shape == (SIDE, SIDE, 3)
    assert np.abs(ours.astype(int) - theirs)[4:-4, 4:-4].max() <= 1  # at its edges Pillow looks beyond the box


def test_the_many_shards_of_the_large_set_are_one(tmp_path: Path) -> None:
    root = tiny(40, 5, tmp_path / "tiny")
    assert len({path.stat().st_ino for path in root.glob("*.parquet")}) == 1
    with closing(open_ours(root, params_of(4, 1))) as loader:
        assert len(next(loader).pairs) == 4
        assert loader._sampler.sources[0].order.rows == 200
