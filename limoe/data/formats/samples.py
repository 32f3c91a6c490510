"""What the members of a WebDataset sample say, by suffix (`cls`, `txt`, `json`), and what Hugging Face's files say of labels."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

CAPTIONS = ("captions", "caption", "txt", "text")


def spoken(captions: str | Sequence[str | None] | None) -> tuple[str, ...]:
    """A caption or several, as several, without nulls and those of white space alone.

    >>> spoken(["a cat", None, " "]), spoken("a cat"), spoken(None)
    (('a cat',), ('a cat',), ())
    """
    listed = (captions,) if isinstance(captions, str) else captions or ()
    return tuple(caption for caption in listed if caption is not None and caption.strip())


def key_and_suffix(name: str) -> tuple[str, str]:
    """A sample's key, which is the path up to the first dot of the file's name, and what follows, in small letters.

    >>> key_and_suffix("./sub.d/a.seg.PNG")
    ('sub.d/a', 'seg.png')
    """
    folder, _, file = name.removeprefix("./").rpartition("/")
    stem, _, suffix = file.partition(".")
    return f"{folder}/{stem}" if folder else stem, suffix.lower()


def label_names(schema: pa.Schema, label: str | None) -> tuple[str, ...]:
    """The names that `ClassLabel` keeps in the metadata of Parquet and Arrow files, if there are any."""
    try:
        told = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = told["info"]["features"][label]["names"]
    except (ValueError, KeyError, TypeError):
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _from_lines(text: str) -> dict[str, Any]:
    captions = [caption for line in text.splitlines() if (caption := line.strip())]
    return {"captions": captions} if captions else {}


def _from_json(text: str) -> dict[str, Any]:
    told = json.loads(text)
    if not isinstance(told, dict):
        raise ValueError("not a JSON object")
    captions = next(({"captions": told[name]} for name in CAPTIONS if told.get(name)), {})
    return captions | {name: told[name] for name in ("label", "split", "group") if told.get(name) is not None}


# by suffix; of two that say the same thing the later one counts
READERS: Mapping[str, Callable[[str], dict[str, Any]]] = {
    "cls": lambda text: {"label": text.strip()},
    "json": _from_json,
    "txt": _from_lines,
}
