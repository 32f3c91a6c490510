"""Members of a tar that may be anything: nothing is written to disk, and no member, header or compression takes more memory
than one picture may."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

from limoe.data.verify import BadImage

MAX_HEADER = 16 << 20  # bytes between two members: long names, padding, and what is read ahead
BLOCK = 1 << 20
MARK_BYTES = 6  # what a compressed stream is known by
BROKEN = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError, ValueError, OverflowError, RecursionError)
COMPRESSED: dict[bytes, Callable[[Any], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}


class Member(NamedTuple):
    """A file in a tar. content: or why it is not read. offset: of its first byte in the tar's file; None where that does not hold
    it as it is, because it is compressed, or a sparse member without its zeros."""

    name: str
    content: bytes | BadImage
    offset: int | None


class Metered(io.RawIOBase):
    """A stream that hands out no more bytes than it is allowed: a compressed header may claim any length."""

    def __init__(self, stream: Any) -> None:
        self._stream, self.left = stream, MAX_HEADER

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes; ReadError beyond what is left."""
        found: bytes = self._stream.read(size)
        self.left -= len(found)
        if self.left < 0:
            raise tarfile.ReadError("a header that is too long")
        return found


def members(stream: BinaryIO, most: Callable[[str], int | None]) -> Iterator[Member]:
    """Each file in a tar, in order; the tar as it is, or compressed by gzip, bzip2 or xz.

    most: how many bytes a file of this name may have; None leaves it out. What has more comes as the reason why it is not read.
    BadImage is raised where the tar is broken, behind everything before that.
    """
    name = "its beginning"
    try:
        plain, compressed = _plain(stream)
        metered = Metered(plain)
        with tarfile.open(fileobj=metered, mode="r|") as archive:
            while (entry := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # it would keep every header
                name, metered.left = entry.name, entry.size + MAX_HEADER
                limit = most(name) if entry.isreg() else None
                if limit is None:
                    continue
                if entry.size > limit:
                    yield Member(name, BadImage("too-many-bytes", f"{entry.size} bytes; allowed are {limit}"), None)
                elif (content := archive.extractfile(entry)) is not None:
                    whole = not compressed and entry.sparse is None
                    yield Member(name, content.read(), entry.offset_data if whole else None)
            _check_end(archive, metered)
    except BROKEN as error:
        raise BadImage("broken-tar", f"behind {name}: {' '.join(str(error).split()) or type(error).__name__}") from None


def _check_end(archive: tarfile.TarFile, metered: Metered) -> None:
    """ReadError if anything but zeros follows: `next` takes a header that it cannot read for the end."""
    assert archive.fileobj is not None  # it was opened with one
    while block := archive.fileobj.read(BLOCK):
        metered.left = MAX_HEADER
        if block.strip(b"\0"):
            raise tarfile.ReadError("no header")


class _Again(io.RawIOBase):
    """A stream whose first bytes have been read already; it is read on only, as those from elsewhere can be."""

    def __init__(self, begins: bytes, stream: BinaryIO) -> None:
        self._begins, self._stream = begins, stream

    def read(self, size: int = -1) -> bytes:
        many = len(self._begins) if size < 0 else size
        found, self._begins = self._begins[:many], self._begins[many:]
        return found or self._stream.read(size)


def _plain(stream: BinaryIO) -> tuple[Any, bool]:
    """The stream, decompressed if it begins like a compressed one; and whether it does."""
    begins = stream.read(MARK_BYTES)
    again = _Again(begins, stream)
    opens = next((opens for mark, opens in COMPRESSED.items() if begins.startswith(mark)), None)
    return (again, False) if opens is None else (opens(again), True)
