"""Files of this disk and of wherever fsspec can reach, opened alike."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, BinaryIO, cast

from limoe.errors import Reported, UserError

UNKNOWN = (ImportError, ValueError)  # a driver that is not installed, a protocol that nobody knows


def is_remote(address: str) -> bool:
    """Whether it is an address and no path."""
    return "://" in address


@contextmanager
def opened(address: str) -> Iterator[BinaryIO]:
    """The file's bytes as a stream; OSError if there are none, UserError if a package is missing that the address needs, Reported
    if it cannot be reached."""
    if not is_remote(address):
        with open(address, "rb") as handle:
            yield handle
        return
    import fsspec

    with reaching(address, UNKNOWN):
        opening = fsspec.open(address, "rb")
    with ExitStack() as stack:
        try:
            handle = stack.enter_context(opening)
        except OSError:
            raise
        except Exception as error:  # each driver has its own
            raise Reported("machine", f"{address}: cannot be opened ({' '.join(str(error).split())})") from error
        yield cast(BinaryIO, Reached(handle, address))


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
