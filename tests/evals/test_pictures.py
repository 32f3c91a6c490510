"""Pictures read when asked for: every store gives the same bytes in the same order, whatever the piece."""

import hashlib
import io
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from limoe.errors import UserError
from limoe.evals.pictures import Column, Files, Member, ParquetColumn, TarMembers, content_hash, digests, pieces

CONTENT = [bytes([number]) * (number + 1) for number in range(11)]


def column(folder):
    return Column(pa.chunked_array([CONTENT[:4], CONTENT[4:]], pa.binary()))


def files(folder):
    paths = [folder / f"{number:02d}" for number in range(len(CONTENT))]
    for path, content in zip(paths, CONTENT, strict=True):
        path.write_bytes(content)
    return Files(paths)


def parquet(folder):
    rows = pa.array([{"bytes": content, "path": None} for content in CONTENT])
    for name, part in (("a", rows[:7]), ("b", rows[7:])):
        pq.write_table(pa.table({"image": part}), folder / name, row_group_size=3)
    return ParquetColumn([folder / "a", folder / "b"], "image.bytes")


def tar(folder):
    with tarfile.open(folder / "a.tar", "w") as archive:
        for number, content in enumerate(CONTENT):
            entry = tarfile.TarInfo(f"{number}.jpg")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    with tarfile.open(folder / "a.tar") as archive:
        return TarMembers([Member(folder / "a.tar", entry.offset_data, entry.size) for entry in archive])


@pytest.mark.parametrize("make", [column, files, parquet, tar])
def test_a_store_gives_every_picture_in_order(make, tmp_path):
    pictures = make(tmp_path)
    assert len(pictures) == len(CONTENT)
    for size in (1, 2, 5, 100):
        assert [picture for piece in pieces(pictures, size) for picture in piece] == CONTENT
    assert pictures.read(9, 5) == CONTENT[9:]
    assert digests(pictures) == [hashlib.sha256(content).hexdigest() for content in CONTENT]


def test_order_and_content_change_the_hash():
    hashes = {content_hash(digests(Column(pa.chunked_array([part])))) for part in (CONTENT, CONTENT[::-1], CONTENT[:-1])}
    assert len(hashes) == 3


def test_a_file_that_is_gone_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.jpg: cannot be read: No such file"):
        Files([tmp_path / "gone.jpg"]).read(0, 1)
