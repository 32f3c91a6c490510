"""Captions and keys from anywhere, as texts that a file can hold."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any

from limoe.data.verify import BadImage

SURROGATE = re.compile(r"[\ud800-\udfff]")  # JSON may spell one alone, and bytes that are no UTF-8 are read as some
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
MOST = 100_000  # characters of a caption; what is longer is no caption
MOST_KEY = 1000  # characters
SPOKEN = ("raw", "caption", "text", "sentence")  # keys of a caption that comes with others, such as its tokens


def plain(text: str) -> str:
    """White space and control characters (NUL among them) folded to single spaces.

    >>> plain(" a\\tcat\\x00 and\\n\\na dog ")
    'a cat and a dog'
    """
    return " ".join(CONTROL.sub(" ", text).split())


def captions(value: Any) -> tuple[str, ...]:
    """The captions in a text or a list of texts, each once, empty ones left out; BadImage if one is no text that can be kept."""
    listed = value if isinstance(value, list | tuple) else [value]
    found = dict.fromkeys(plain(_caption(one)) for one in listed if one is not None)
    return tuple(caption for caption in found if caption)


def word(value: Any, name: str) -> str | None:
    """A label, split or group: a text or a whole number; None if it says nothing; BadImage if it is anything else."""
    if isinstance(value, float) and (value != value or value.is_integer()):  # tables with gaps have no whole numbers
        value = None if value != value else int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return plain(text(value, name)) or None if value is not None else None


def found_label(value: Any, spoken: bool) -> Any:
    """A label that nobody named; None where captions do without it, and it is neither a text nor a whole number.

    >>> [found_label(value, spoken=True) for value in ("cat", 3, 3.0, 0.5, True, ["cat", "dog"])]
    ['cat', 3, 3.0, None, None, None]
    """
    whole = (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer())
    return value if whole or isinstance(value, str) or not spoken else None


def text(value: Any, name: str) -> str:
    """The value, a text that a file can hold; BadImage if it is none."""
    if not isinstance(value, str):
        raise BadImage("bad-row", f"{name} must be text, is {reprlib.repr(value)}")
    if half := SURROGATE.search(value):
        if "\udc80" <= half[0] <= "\udcff":
            raise BadImage("bad-row", f"{name} holds bytes that are no UTF-8")
        raise BadImage("bad-row", f"{name} holds half a surrogate pair, which is no character")
    if len(value) > MOST:
        raise BadImage("long-text", f"{name} has {len(value)} characters; allowed are {MOST}")
    return value


def key_of(parts: Iterable[str]) -> str:
    """A key of these parts; BadImage if it leads out of a folder, or is none that a file can hold."""
    key = "/".join(parts)
    if {"", ".."} & set(key.split("/")):
        raise BadImage("path-escape", "its name leads out of the folder")
    if len(key) > MOST_KEY or CONTROL.search(key) or SURROGATE.search(key):
        raise BadImage("bad-key", f"a name of more than {MOST_KEY} characters, or with some that are none")
    return key


def legible(key: str) -> str:
    """Any key, short enough and with escapes for what a file cannot hold or a terminal obeys: for the row that says why it was
    rejected.

    >>> legible("caf\\udce9"), legible("\\x1b[2J")
    ('caf\\\\udce9', '\\\\x1b[2J')
    """
    escaped = CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", key[:MOST_KEY])
    return escaped.encode("utf-8", "backslashreplace").decode("utf-8")


def _caption(value: Any) -> str:
    if isinstance(value, Mapping):
        value = next((value[name] for name in SPOKEN if name in value), value)
    return text(value, "caption")
