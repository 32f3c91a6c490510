"""A table in a text file, csv, tsv or jsonl, row by row: a bad row is a sentence about it, a bad file a UserError."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

from limoe.data.addresses import opened
from limoe.data.sources.images import MAX_BYTES
from limoe.data.sources.places import Place
from limoe.errors import UserError

LINE_BYTES = MAX_BYTES // 3 * 4 + (1 << 20)  # of the longest: a picture in base64, and what else stands there
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")


@dataclass(frozen=True)
class Row:
    """line: of its end, from 1. start: its first byte, from where `read_row` reads it again. values: or what is wrong with it."""

    line: int
    start: int
    values: Mapping[str, Any] | str


@dataclass(frozen=True)
class Form:
    """How lines are cut. told: the same for a person. instead: what to do where a sign of another form cuts the first line."""

    delimiter: str
    quoting: Literal[0, 3]  # csv.QUOTE_MINIMAL, csv.QUOTE_NONE
    told: str
    instead: Mapping[str, str]


INSTEAD_OF_CSV = {"\t": "call it .tsv", ";": "save it again with commas"}
INSTEAD_OF_TSV = {",": "call it .csv", ";": "save it again with tabs"}
CSV = Form(",", csv.QUOTE_MINIMAL, "a .csv has commas between them", INSTEAD_OF_CSV)
TSV = Form("\t", csv.QUOTE_NONE, "a .tsv has tabs between them", INSTEAD_OF_TSV)


class Lines:
    """The lines of a stream, decoded; bytes that are no UTF-8 come as lone surrogates, which no caption may hold."""

    def __init__(self, handle: BinaryIO, where: str) -> None:
        self._handle, self._where = handle, where
        self.at, self.number = 0, 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._handle.readline(LINE_BYTES)
        if not line:
            raise StopIteration
        self.at += len(line)
        self.number += 1
        if len(line) == LINE_BYTES:
            raise UserError(f"{self._where}: line {self.number} is longer than {LINE_BYTES} bytes")
        return line.decode("utf-8", "surrogateescape").removeprefix("\ufeff" if self.number == 1 else "")


def read_rows(place: Place) -> Iterator[Row]:
    """Every row of the file; UserError if it cannot be read, or is no csv."""
    with _reading(place) as lines:
        yield from _jsonl(lines) if _is_json(place) else _rows(lines, place)


def read_row(handle: BinaryIO, place: Place, names: list[str], start: int) -> Mapping[str, Any]:
    """The row that starts at this byte, which has been read before; OSError or ValueError if the file is another one by now.

    names: of the columns, where the file does not repeat them in each row.
    """
    handle.seek(start)
    lines = Lines(handle, place.address)
    lines.number = min(start, 1)  # only the first line may begin with a byte order mark
    found = json.loads(next(lines)) if _is_json(place) else next(_csv(lines, place, names), None)
    if not isinstance(found, dict):
        raise ValueError("no row")
    return found


def read_names(place: Place) -> list[str]:
    """The names of the file's columns, as its first line has them, or all keys of a jsonl's rows; UserError as `read_rows`."""
    if _is_json(place):
        values = (row.values for row in read_rows(place))
        return list(dict.fromkeys(name for row in values if isinstance(row, Mapping) for name in row))
    with _reading(place) as lines:
        return list(_csv(lines, place).fieldnames or ())


@contextmanager
def _reading(place: Place) -> Iterator[Lines]:
    try:
        with opened(place.address) as handle:
            lines = Lines(handle, place.address)
            try:
                yield lines
            except csv.Error as error:
                raise UserError(f"{place.address}: not valid csv in the row that ends in line {lines.number} ({error})") from None
    except OSError as error:
        raise UserError(f"{place.address}: cannot be read ({error.strerror or error})") from None


def _csv(lines: Lines, place: Place, names: Sequence[str] | None = None) -> csv.DictReader[str]:
    """The rows of a csv or tsv; UserError if its first line has to name the columns and does not."""
    csv.field_size_limit(LINE_BYTES)
    form = TSV if place.name.lower().endswith(".tsv") else CSV
    # strict: an unclosed quotation mark would swallow rows
    reader = csv.DictReader(lines, names, strict=True, delimiter=form.delimiter, quoting=form.quoting)
    found = reader.fieldnames
    if not found:
        raise UserError(f"{place.address}: has no first line that names its columns")
    if len(found) == 1 and (advice := next((form.instead[sign] for sign in form.instead if sign in found[0]), None)):
        raise UserError(f"{place.address}: its first line names one column, {found[0][:100]!r}; {form.told}: {advice}")
    return reader


def _rows(lines: Lines, place: Place) -> Iterator[Row]:
    reader = _csv(lines, place)
    start = lines.at
    for values in reader:
        yield Row(lines.number, start, "more columns than the first line names" if None in values else values)
        start = lines.at


def _jsonl(lines: Lines) -> Iterator[Row]:
    start = 0
    for line in lines:
        if line.strip():
            yield Row(lines.number, start, _json(line))
        start = lines.at


def _json(line: str) -> Mapping[str, Any] | str:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"not JSON ({error})"
    return values if isinstance(values, dict) else f"not a JSON object but {type(values).__name__}"


def _is_json(place: Place) -> bool:
    return place.name.lower().endswith((".jsonl", ".ndjson"))
