"""A captions file, csv or jsonl, as rows: a bad row is a sentence about it, a bad file a UserError."""

from __future__ import annotations

import csv
import json
import re
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from limoe.errors import UserError

REQUIRED, OPTIONAL = ("image", "caption"), ("label", "split", "group")
SURROGATE = re.compile(r"[\ud800-\udfff]")  # JSON may spell one alone, and no file can hold it


@dataclass(frozen=True)
class Row:
    """One image and one caption (white space folded, perhaps empty); None where an optional column says nothing."""

    image: str
    caption: str
    label: str | None = None
    split: str | None = None
    group: str | None = None


def read_rows(path: Path) -> Iterator[tuple[int, Row | str]]:
    """(line number, row) of each row of a .csv or .jsonl file, or what is wrong with the row.

    UserError if the file has another ending, is not UTF-8, lacks a required column or has no rows.
    """
    readers = {".csv": _csv, ".jsonl": _jsonl}
    if path.suffix.lower() not in readers:
        raise UserError(f"prepare.folder.captions: {path} must end in {' or '.join(readers)}")
    count = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            for count, (line, values) in enumerate(readers[path.suffix.lower()](handle, path), start=1):  # noqa: B007  read below
                yield line, values if isinstance(values, str) else _row(values)
    except UnicodeDecodeError as error:
        raise UserError(f"prepare.folder.captions: {path} is not UTF-8 ({error.reason} at byte {error.start})") from None
    except csv.Error as error:
        raise UserError(f"prepare.folder.captions: {path} is not valid csv behind its row {count} ({error})") from None
    except OSError as error:
        raise UserError(f"prepare.folder.captions: {path} cannot be read ({error.strerror})") from None
    if not count:
        raise UserError(f"prepare.folder.captions: {path} has no rows")


def _csv(handle: TextIO, path: Path) -> Iterator[tuple[int, Mapping[Any, Any] | str]]:
    reader = csv.DictReader(handle, strict=True)  # else an unclosed quote would swallow the rows after it
    columns = reader.fieldnames or []
    if missing := [name for name in REQUIRED if name not in columns]:
        raise UserError(
            f"prepare.folder.captions: {path} has no column {missing[0]!r}; its first line must name image and caption"
            f" (and may name {', '.join(OPTIONAL)}), it names {', '.join(columns) or 'nothing'}"
        )
    for values in reader:
        yield reader.line_num, "more columns than the first line names" if None in values else values


def _jsonl(handle: TextIO, path: Path) -> Iterator[tuple[int, Mapping[Any, Any] | str]]:  # noqa: ARG001  csv's errors need it
    for number, line in enumerate(handle, start=1):
        if line.strip():
            try:
                values = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, f"not JSON ({error})"
                continue
            yield number, values if isinstance(values, dict) else f"not a JSON object but {type(values).__name__}"


def _row(values: Mapping[Any, Any]) -> Row | str:
    """The known columns, or what is wrong with them."""
    for name in (*REQUIRED, *OPTIONAL):
        value = values.get(name)
        if value is None and name in REQUIRED:
            return f"{name} is missing"
        if not isinstance(value, str | None):
            return f"{name} must be text, is {reprlib.repr(value)}"
        if value is not None and SURROGATE.search(value):
            return f"{name} holds half a surrogate pair, which is no character"
    if not values["image"].strip():
        return "image is empty"
    optional = {name: (values.get(name) or "").strip() or None for name in OPTIONAL}
    return Row(values["image"].strip(), " ".join(values["caption"].split()), **optional)
