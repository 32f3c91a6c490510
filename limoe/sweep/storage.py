"""Where a sweep's study is kept, and the record of the settings that it was begun under.

By default Optuna's journal file, under a lock that the kernel frees when its holder dies (Optuna's own would have to be waited
out for 30 seconds); or any storage that Optuna opens by URL.
"""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Any, TextIO

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from limoe.errors import UserError
from limoe.files import dump_json, flatten, read_json, write_json

JOURNAL = "optuna.log"
RECORD = "sweep.json"
SECRETS = ("password", "passfile", "sslpassword")  # of a URL's query, as PostgreSQL's drivers have them


class KernelLock(JournalFileOpenLock):
    """A lock on a file beside the journal that its holder's death frees at once."""

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self._path = journal.with_name(f"{journal.name}.lock")
        self._handle: TextIO | None = None

    def acquire(self) -> bool:
        """Wait for the lock; True."""
        handle = self._path.open("a", encoding="utf-8")
        fcntl.flock(handle, fcntl.LOCK_EX)
        self._handle = handle
        return True

    def release(self) -> None:
        """Free it."""
        assert self._handle is not None
        self._handle.close()
        self._handle = None


def open_storage(folder: Path, url: str | None) -> BaseStorage:
    """The journal in `folder` (begun if there is none), or the storage at `url`; UserError if that cannot be opened."""
    if url is not None:
        try:
            return RDBStorage(url)
        except Exception as error:
            raise UserError(f"storage {without_password(url)}: cannot be opened ({' '.join(str(error).split())})") from None
    folder.mkdir(parents=True, exist_ok=True)
    lock = KernelLock(folder / JOURNAL)
    mend(folder / JOURNAL, lock)
    return JournalStorage(JournalFileBackend(str(folder / JOURNAL), lock_obj=lock))


def mend(journal: Path, lock: KernelLock) -> None:
    """Cut off a last line that its writer was killed in: with another behind it the journal could not be read any more."""
    lock.acquire()
    try:
        if journal.exists() and not (content := journal.read_bytes()).endswith(b"\n"):
            with journal.open("r+b") as handle:
                handle.truncate(content.rfind(b"\n") + 1)
    finally:
        lock.release()


def without_password(url: str) -> str:
    """The URL as it may be written down.

    >>> without_password("postgresql://me:secret@host/db")
    'postgresql://me@host/db'
    """
    try:
        read = make_url(url)
    except ArgumentError:
        return "a URL that cannot be read"
    plain = read._replace(password=None).difference_update_query(SECRETS)
    return url if plain == read else plain.render_as_string(hide_password=False)


def keep_record(folder: Path, record: dict[str, Any], may_change: tuple[str, ...]) -> None:
    """Write sweep.json, or hold `record` against the one that is there.

    UserError names what differs, unless it is one of `may_change` (dotted names): those are written anew.
    """
    path = folder / RECORD
    if path.exists():
        old, new = flatten(read_json(path)), flatten(_as_read(record))
        names = [name for name in {**old, **new} if name not in may_change]
        changed = [name for name in names if old.get(name, "absent") != new.get(name, "absent")]
        if changed:
            first, more = changed[0], f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
            raise UserError(
                f"{folder}: this sweep was begun under other settings: {first} was {old.get(first, 'absent')!r} and is "
                f"{new.get(first, 'absent')!r}{more}; put it back, or start anew under another name"
            )
        if old == new:
            return
    write_json(path, record)


def _as_read(record: dict[str, Any]) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(dump_json(record))
    return value
