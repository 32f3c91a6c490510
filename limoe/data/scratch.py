"""Lists that may outgrow memory, in a temporary file."""

from __future__ import annotations

import sqlite3

CACHE_KB = 16_000  # of a file, in memory


def scratch(tables: str) -> sqlite3.Connection:
    """A database in a temporary file that has no name and ends with the connection. tables: the SQL that makes them."""
    opened = sqlite3.connect("", check_same_thread=False)  # SQLite lets one thread in at a time
    opened.executescript(f"PRAGMA cache_size = -{CACHE_KB}; PRAGMA journal_mode = OFF; {tables}")
    return opened


def to_blob(path: str) -> bytes:
    """A path as the database has it: some hold what is no character."""
    return path.encode("utf-8", "surrogatepass")


def to_path(blob: bytes) -> str:
    """The inverse."""
    return blob.decode("utf-8", "surrogatepass")
