"""Files of this disk and of wherever fsspec can reach, opened alike."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from limoe.errors import Reported, UserError

GONE = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)
UNKNOWN = (ImportError, ValueError)  # a driver that is not installed, a protocol that nobody knows


def is_remote(address: str) -> bool:
    """Whether it is an address and no path."""
    return "://" in address


@contextmanager
def opened(address: str) -> Iterator[BinaryIO]:
    """The file's bytes as a stream; OSError if there are none, UserError if a package is missing that the address needs."""
    if not is_remote(address):
        with open(address, "rb") as handle:
            yield handle
        return
    import fsspec

    with reaching(address, UNKNOWN):
        opening = fsspec.open(address, "rb")
    with opening as handle:
        yield cast(BinaryIO, Reached(handle, address))


def read_ranges(address: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
    """The file's bytes from `start` to before `stop`, or to its end, for each (start, stop); elsewhere all are asked for at once.

    One of GONE if there is no such file, else Reported if it cannot be read now. UserError if a package is missing that the
    address needs, or if its server gives whole files alone.
    """
    if not is_remote(address):
        try:
            with open(address, "rb") as handle:
                return [_at(handle, start, stop) for start, stop in spans]
        except GONE:
            raise
        except OSError as error:
            raise Reported("machine", f"{address}: cannot be read now ({error.strerror or error})") from error
    import fsspec

    with reaching(address, UNKNOWN):
        system, path = fsspec.core.url_to_fs(address)
    try:
        starts, stops = ([span[end] for span in spans] for end in (0, 1))
        found = system.cat_ranges([path] * len(spans), starts, stops, on_error="return")
        if failed := next((one for one in found if isinstance(one, BaseException)), None):
            raise failed
    except GONE:
        raise
    except Exception as error:  # each driver has its own
        raise Reported("machine", f"{address}: cannot be read now ({' '.join(str(error).split())})") from error
    if any(len(content) > stop - start for content, (start, stop) in zip(found, spans, strict=True)):
        raise UserError(f"{address}: its server gives no parts of a file, but the whole")
    return list(found)


def _at(handle: BinaryIO, start: int, stop: int) -> bytes:
    handle.seek(start)
    return handle.read(stop - start)


class Reached(io.RawIOBase):
    """A stream from elsewhere. Where it fails, that is the machine's fault and another attempt may help: nothing is rejected."""

    def __init__(self, stream: Any, address: str) -> None:
        self._stream, self._address = stream, address

    def _do(self, name: str, *arguments: int) -> Any:
        try:
            return getattr(self._stream, name)(*arguments)
        except Exception as error:  # each driver has its own
            raise Reported("machine", f"{self._address}: broke off while it was read ({' '.join(str(error).split())})") from error

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Whether the driver can."""
        return bool(self._stream.seekable())

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes."""
        found: bytes = self._do("read", size)
        return found

    def readline(self, size: int | None = -1) -> bytes:
        """Up to the next line's end, or `size` bytes."""
        found: bytes = self._do("readline", -1 if size is None else size)
        return found

    def seek(self, offset: int, whence: int = 0) -> int:
        """The new place."""
        return int(self._do("seek", offset, whence))

    def tell(self) -> int:
        """The place."""
        return int(self._do("tell"))


@contextmanager
def reaching(address: str, kinds: tuple[type[Exception], ...]) -> Iterator[None]:
    """UserError if the body raises one of these."""
    try:
        yield
    except kinds as error:
        raise UserError(f"{address}: cannot be reached: {' '.join(str(error).split())}") from None
