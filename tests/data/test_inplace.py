"""Pictures read from the tars in which they lie: the right bytes, few questions, and a sentence where they are not there."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import io
import os
import tarfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inplacekit import members as by_python
from inplacekit import photos

from limoe.data import inplace
from limoe.data.inplace import COLUMNS, Tars, located, ranges
from limoe.data.schema import SCHEMA
from limoe.data.sources.tars import members
from limoe.errors import Reported, UserError

CHANGED = r"run `limoe prepare` again$"


def table(pieces: Sequence[tuple[str, int, int]], images: Sequence[bytes | None], content: bytes) -> pa.Table:
    """Rows of the source `s` with these (tar, offset, length), or with pictures of their own; digests of what should be found."""
    rows = []
    for number, ((tar, offset, length), image) in enumerate(zip(pieces, images, strict=True)):
        place = {"tar": tar, "offset": offset, "length": length} if image is None else {}
        digest = hashlib.sha256(content[offset : offset + length] if image is None else image).hexdigest()
        rows.append({"key": f"s/{number}", "source": "s", "image": image, "sha256": digest, **place})
    return pa.Table.from_pylist(rows, pa.schema([SCHEMA.field(name) for name in COLUMNS]))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_merged_reads_give_plain_slices(data: st.DataObject, tmp_path: Path) -> None:
    """Of any pieces, that overlap or not, in any order and among rows that have their pictures; each byte range read once."""
    content = data.draw(st.randoms(use_true_random=False)).randbytes(4000)
    for name in "ab":
        (tmp_path / f"{name}.tar").write_bytes(content)
    piece = st.tuples(st.sampled_from(["a.tar", "b.tar"]), st.integers(0, 3900), st.integers(1, 100))
    pieces = data.draw(st.lists(piece, max_size=30))
    images = [data.draw(st.none() | st.binary(max_size=5)) for _ in pieces]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inplace, "GAP_BYTES", data.draw(st.sampled_from([0, 50, 5000])))
        patch.setattr(inplace, "RANGE_BYTES", data.draw(st.sampled_from([1, 200, 10_000])))
        found = Tars(tmp_path, {"s": "."}).fill(table(pieces, images, content))
        read = list(ranges([offset for _, offset, _ in pieces], [length for _, _, length in pieces]))
    wanted = [content[at : at + size] if own is None else own for (_, at, size), own in zip(pieces, images, strict=True)]
    assert found["image"].to_pylist() == wanted
    assert sorted(row for one in read for row in one.rows) == list(range(len(pieces)))
    assert all(one.start <= pieces[row][1] and sum(pieces[row][1:]) <= one.stop for one in read for row in one.rows)


def test_near_pieces_are_one_read_and_far_ones_or_too_many_are_several() -> None:
    mib = 1 << 20
    assert [one[:2] for one in ranges([0, mib + 10, 3 * mib], [10, 5, 5])] == [(0, mib + 15), (3 * mib, 3 * mib + 5)]
    many = list(ranges([number * mib for number in range(64)], [mib] * 64))
    assert [one.stop - one.start for one in many] == [4 * mib] * 16
    assert [one[:2] for one in ranges([0, 40 * mib], [40 * mib, 5])] == [(0, 40 * mib), (40 * mib, 40 * mib + 5)]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_offsets_are_those_of_python_s_random_access(tmp_path: Path, form: int) -> None:
    """With folders, links, empty files and names that need headers of their own between the pictures."""
    path = tmp_path / "t.tar"
    with tarfile.open(path, "w", format=form) as archive:
        for number in range(20):
            for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE):
                between = tarfile.TarInfo(f"{number}.d")
                between.type = kind
                archive.addfile(between)
            long = "x" * 90 if form == tarfile.USTAR_FORMAT else "ü" * 120
            entry = tarfile.TarInfo(f"{long}/{number}.jpg")
            entry.size = 37 * number
            archive.addfile(entry, io.BytesIO(os.urandom(entry.size)))
    with path.open("rb") as handle:
        found = {one.name: (one.offset, len(one.content)) for one in members(handle, lambda name: 1000)}  # type: ignore[arg-type]
    with tarfile.open(path) as archive:
        assert found == {entry.name: (entry.offset_data, entry.size) for entry in archive if entry.isreg()}
    content = path.read_bytes()
    assert {name: content[offset : offset + size] for name, (offset, size) in found.items()} == by_python(path)


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_what_is_compressed_has_no_offset(tmp_path: Path, mode: str) -> None:
    with tarfile.open(tmp_path / "t.tar", mode) as archive:
        entry = tarfile.TarInfo("a.jpg")
        entry.size = 5
        archive.addfile(entry, io.BytesIO(b"12345"))
    with (tmp_path / "t.tar").open("rb") as handle:
        assert [tuple(one) for one in members(handle, lambda name: 10)] == [("a.jpg", b"12345", None)]


def sparse(size: int = 3000) -> bytes:
    """A tar of `a.jpg`, stored sparsely as GNU tar does it: 10 bytes at 1024, all else is zeros; and of `b.jpg`, which is not."""
    entry = tarfile.TarInfo("a.jpg")
    entry.size = 512
    header = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[386:410] = b"%011o\0%011o\0" % (1024, 512)  # of the one piece: where it lies in the file, and its length
    header[483:495] = b"%011o\0" % size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    plain = tarfile.TarInfo("b.jpg")
    plain.size = 3
    return bytes(header) + b"0123456789".ljust(512, b"\0") + plain.tobuf() + b"abc".ljust(512, b"\0") + bytes(1024)


def test_a_sparse_member_has_no_offset() -> None:
    found = list(members(io.BytesIO(sparse()), lambda name: 10_000))
    assert found[0].content == bytes(1024) + b"0123456789" + bytes(3000 - 1034)
    assert [(one.name, one.offset) for one in found] == [("a.jpg", None), ("b.jpg", 1536)]


@pytest.fixture
def rows(tmp_path: Path) -> pa.Table:
    """Three pictures of photos/00000.tar, as rows in place."""
    path = photos(tmp_path / "photos", tars=1, each=3) / "00000.tar"
    with tarfile.open(path) as archive:
        pieces = [("00000.tar", entry.offset_data, entry.size) for entry in archive if entry.name.endswith(".jpg")]
    return table(pieces, [None] * 3, path.read_bytes())


def test_a_tar_that_changed_is_the_users_to_prepare_again(tmp_path: Path, rows: pa.Table) -> None:
    path, tars = tmp_path / "photos" / "00000.tar", Tars(tmp_path, {"s": "photos"})
    wanted = [content for name, content in by_python(path).items() if name.endswith(".jpg")]
    assert tars.fill(rows)["image"].to_pylist() == wanted
    whole = path.read_bytes()
    at = rows["offset"][1].as_py() + 100
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(UserError, match=rf"{path}: no longer holds the picture of s/1 that was prepared; {CHANGED}"):
        tars.fill(rows)
    for length in (at, 10, 0):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=rf"{path}: no longer holds the picture of s/{int(length == at)} .*; {CHANGED}"):
            tars.fill(rows)
    path.unlink()
    with pytest.raises(
        UserError, match=rf"{path}: cannot be read \(No such file or directory\), and holds the picture of s/0; {CHANGED}"
    ):
        tars.fill(rows)


def test_tars_elsewhere_are_read_and_missed_alike(tmp_path: Path, rows: pa.Table) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/inplace/sub/00000.tar", (tmp_path / "photos" / "00000.tar").read_bytes())
    wanted = Tars(tmp_path, {"s": "photos"}).fill(rows)
    for base in ("memory://inplace/sub", "simplecache::memory://inplace/sub"):
        assert Tars(tmp_path, {"s": base}).fill(rows).equals(wanted)
    with pytest.raises(
        UserError, match=rf"memory://gone/00000.tar: cannot be read \(.*\), and holds the picture of s/0; {CHANGED}"
    ):
        Tars(tmp_path, {"s": "memory://gone"}).fill(rows)


def served(protocol: str, cat: Callable[[str, int, int], Awaitable[bytes]]) -> None:
    """Register a protocol of fsspec's whose files are what `cat(path, start, stop)` gives."""
    import fsspec
    from fsspec.asyn import AsyncFileSystem

    class Served(AsyncFileSystem):
        cachable = False

        async def _cat_file(self, path: str, start: int, end: int, **_: Any) -> bytes:
            return await cat(path, start, end)

    Served.protocol = protocol
    fsspec.register_implementation(protocol, Served, clobber=True)


@pytest.mark.parametrize("error", [ConnectionResetError("by  peer"), RuntimeError("by peer"), TimeoutError("by peer")])
def test_what_another_attempt_may_mend_is_the_machines_fault(tmp_path: Path, rows: pa.Table, error: Exception) -> None:
    async def broken(path: str, start: int, stop: int) -> bytes:
        raise error

    served("shaky", broken)
    with pytest.raises(Reported) as caught:
        Tars(tmp_path, {"s": "shaky://x"}).fill(rows)
    assert str(caught.value) == "shaky://x/00000.tar: cannot be read now (by peer), and holds the picture of s/0"
    assert caught.value.kind == "machine"


def test_a_disk_that_fails_is_the_machines_fault(tmp_path: Path, rows: pa.Table, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("limoe.data.addresses._at", failing)
    with pytest.raises(Reported, match=r"00000.tar: cannot be read now \(Input/output error\), and holds the picture of s/0"):
        Tars(tmp_path, {"s": "photos"}).fill(rows)


def test_a_server_that_gives_whole_files_is_not_taken_for_a_tar_that_changed(tmp_path: Path, rows: pa.Table) -> None:
    whole = (tmp_path / "photos" / "00000.tar").read_bytes()

    async def simple(path: str, start: int, stop: int) -> bytes:
        return whole

    served("whole", simple)
    with pytest.raises(UserError, match=r"^whole://x/00000\.tar: its server gives no parts of a file, but the whole$"):
        Tars(tmp_path, {"s": "whole://x"}).fill(rows)


def test_a_server_is_asked_for_several_ranges_at_once_and_for_no_more(
    tmp_path: Path, rows: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request waits until the second one is there, too: one after the other they would never be answered."""
    monkeypatch.setattr(inplace, "RANGE_BYTES", 1)
    monkeypatch.setattr(inplace, "TOGETHER", 2)
    whole = (tmp_path / "photos" / "00000.tar").read_bytes()
    doubled = pa.concat_tables([rows, rows.take([0])])
    waiting, most, barrier = 0, 0, None

    async def together(path: str, start: int, stop: int) -> bytes:
        nonlocal waiting, most, barrier
        barrier = barrier or asyncio.Barrier(2)
        waiting += 1
        most = max(most, waiting)
        async with asyncio.timeout(60):
            await barrier.wait()
        waiting -= 1
        return whole[start:stop]

    served("together", together)
    wanted = Tars(tmp_path, {"s": "photos"}).fill(doubled)
    assert Tars(tmp_path, {"s": "together://x"}).fill(doubled).equals(wanted)
    assert most == 2


def test_places_are_the_projects_wherever_that_lies(tmp_path: Path) -> None:
    assert located(tmp_path, "data/raw", "a/b.tar") == f"{tmp_path}/data/raw/a/b.tar"
    assert located(tmp_path, "/mnt/sets", "b.tar") == "/mnt/sets/b.tar"
    assert located(tmp_path, "s3://bucket/x", "b.tar") == "s3://bucket/x/b.tar"
