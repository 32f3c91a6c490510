"""Pictures that stay in their tars: a row of the prepared set says where, and they are read when the row is.

Axes: N rows of a table, in any order; those in place have no picture, but (source, tar, offset, length).

Pictures that lie near each other are read in one go, since a disk, and far more a server elsewhere, answers few long questions
sooner than many short ones. Each one's SHA-256 must be the row's, so what is trained on is what was prepared, whoever has
changed the tars since.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from limoe.data.addresses import GONE, is_remote, read_ranges
from limoe.data.schema import PLACE, SCHEMA
from limoe.errors import Reported, UserError

BASE = "tars"  # key of the manifest's sources: the folder or address in which names of tars begin
COLUMNS = ("key", "source", "image", "sha256", *PLACE)  # what pictures are found by
GAP_BYTES, RANGE_BYTES = 1 << 20, 4 << 20  # a shorter gap is read through; no more is read in one go, but for a larger picture
TOGETHER = 8  # ranges that a server elsewhere is asked for at once
AGAIN = "run `limoe prepare` again"


class Range(NamedTuple):
    """Bytes of a file that are read in one go, from `start` to before `stop`; rows: whose pictures they hold."""

    start: int
    stop: int
    rows: list[int]


def located(project: Path, base: str, name: str) -> str:
    """What opens the tar of this name. base: a folder, from the project's if it is relative, or an address."""
    return posixpath.join(base if is_remote(base) else str(project / base), name)


def ranges(offsets_N: Sequence[int], lengths_N: Sequence[int]) -> Iterator[Range]:
    """What must be read to have all N pieces of a file, in the file's order; each piece lies in one of them as a whole.

    >>> list(ranges([100, 0, 5 << 20], [10, 7, 1]))
    [Range(start=0, stop=110, rows=[1, 0]), Range(start=5242880, stop=5242881, rows=[2])]
    """
    found: Range | None = None
    for row in sorted(range(len(offsets_N)), key=lambda row: offsets_N[row]):
        start, stop = offsets_N[row], offsets_N[row] + lengths_N[row]
        if found is not None and start - found.stop <= GAP_BYTES and max(stop, found.stop) - found.start <= RANGE_BYTES:
            found.rows.append(row)
            found = found._replace(stop=max(stop, found.stop))
            continue
        if found is not None:
            yield found
        found = Range(start, stop, [row])
    if found is not None:
        yield found


class Tars:
    """The tars that hold pictures of one prepared set."""

    def __init__(self, project: Path, bases: Mapping[str, str]) -> None:
        """bases: of each source whose training pictures stay in place, see `located`."""
        self._project, self._bases = project, bases

    def __bool__(self) -> bool:
        return bool(self._bases)

    def fill(self, table: pa.Table) -> pa.Table:
        """Rows, of a row group at most, with the pictures that they have elsewhere; as they are, if they have none of them or not
        all of COLUMNS.

        UserError if a tar is gone, or holds another picture there; Reported if it cannot be reached now.
        """
        if not set(COLUMNS) <= set(table.column_names) or not table["image"].null_count:
            return table
        told = table.select([name for name in COLUMNS if name != "image"]).to_pydict()
        images_N, slots_N = _room(table)
        by_tar: dict[tuple[str, str], list[int]] = defaultdict(list)
        for row, image in enumerate(table["image"]):
            if image.is_valid:
                slots_N[row][:] = image.as_py()
            else:
                by_tar[told["source"][row], told["tar"][row]].append(row)
        for (source, tar), rows in by_tar.items():
            _read(located(self._project, self._bases[source], tar), rows, told, slots_N)
        return table.set_column(table.schema.get_field_index("image"), SCHEMA.field("image"), images_N)


def _room(table: pa.Table) -> tuple[pa.Array, list[memoryview]]:
    """A column for the pictures of the rows, and where in it each is to be written."""
    own_N = pc.binary_length(table["image"]).cast(pa.int64())
    ends = np.cumsum([0, *pc.coalesce(own_N, table["length"]).to_pylist()])
    room = bytearray(int(ends[-1]))
    buffers = [None, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(room)]
    slots_N = [memoryview(room)[start:stop] for start, stop in pairwise(ends.tolist())]
    return pa.Array.from_buffers(pa.binary(), len(table), buffers), slots_N


def _read(address: str, rows: Sequence[int], told: Mapping[str, Sequence[Any]], slots_N: Sequence[memoryview]) -> None:
    """Write the pictures of these rows, which lie in one tar, into their slots."""
    offsets, lengths = ([told[name][row] for row in rows] for name in ("offset", "length"))
    key, asked = told["key"][rows[0]], list(ranges(offsets, lengths))
    try:
        for wave in (asked[first : first + TOGETHER] for first in range(0, len(asked), TOGETHER)):
            contents = read_ranges(address, [one[:2] for one in wave])
            for (start, _, places), content in zip(wave, contents, strict=True):
                for place in places:
                    at, row = offsets[place] - start, rows[place]
                    image, key = memoryview(content)[at : at + lengths[place]], told["key"][row]
                    if hashlib.sha256(image).hexdigest() != told["sha256"][row]:
                        raise UserError(f"{address}: no longer holds the picture of {key} that was prepared; {AGAIN}")
                    slots_N[row][:] = image
    except GONE as error:
        why = error.strerror or error
        raise UserError(f"{address}: cannot be read ({why}), and holds the picture of {key}; {AGAIN}") from None
    except Reported as error:
        raise Reported(error.kind, f"{error}, and holds the picture of {key}") from error
