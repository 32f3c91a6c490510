"""Whether a file has changed since it was read, without reading it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from limoe.data.addresses import is_remote
from limoe.errors import Reported

ABSENT = (FileNotFoundError, ImportError, ValueError)  # or out of reach, for want of a driver: whoever reads it says so
READ_AT = ("time", "atime")  # what drivers tell of the last reading, which changes nothing


def state(address: str) -> Any:
    """Size and time of a file of this disk, or all that its driver tells of one elsewhere (size, time, ETag, checksum): plain
    values, None for no file. Reported if it cannot be reached now."""
    if not is_remote(address):
        path = Path(address)
        found = path.stat() if path.exists() else None
        return found and [found.st_size, found.st_mtime_ns]
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(address)
        system.invalidate_cache()  # a worker may have listed the folder for an earlier run
        told = system.info(path)
    except ABSENT:
        return None
    except Exception as error:  # each driver has its own
        raise Reported("machine", f"{address}: cannot be reached ({' '.join(str(error).split())})") from error
    return {name: ascii(value) for name, value in told.items() if name not in READ_AT}
