"""`huggingface`: what `Dataset.save_to_disk` leaves, and any other Arrow files, read without the package `datasets`.

A part is a file, of which a batch of rows is held at a time, and not even that where the file is here and can be mapped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from limoe.config import SetParams
from limoe.data.addresses import is_remote, opened
from limoe.data.sources.arrow import InColumns
from limoe.data.sources.base import Part
from limoe.data.sources.places import Place, find
from limoe.errors import UserError
from limoe.files import read_json

SUFFIXES = (".arrow", ".feather")
STATE = "state.json"
FILE_MARK = b"ARROW1"  # Arrow's format of files; without it, its format of streams


class HuggingFace(InColumns):
    """The rows of Arrow files."""

    def __init__(self, name: str, params: SetParams, root: Path) -> None:
        """Read the files' schemas; UserError if one is no Arrow file, or lacks a column that is needed."""
        places = [place for place in find(root, params.path, SUFFIXES) if _belongs(place)]
        if not places:
            raise UserError(f"{params.path}: none of the Arrow files here belongs to a set that was saved")
        super().__init__(name, params, root, places)
        for place in places:
            try:
                with _reader(place) as reader:
                    self.know(place, reader.schema)
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last: of a column's name
                raise UserError(f"{place.address}: no Arrow file that can be read ({' '.join(str(error).split())})") from None

    @property
    def parts(self) -> Sequence[Part]:
        """The files."""
        return [Part(name) for name in self.places]

    def batches(self, part: Part) -> Iterator[tuple[int, pa.RecordBatch]]:
        """See InColumns."""
        row = 0
        with _reader(self.places[part.name]) as reader:
            for batch in _batches(reader):
                batch.validate(full=True)  # what a stream says of its own lengths is not to be trusted
                yield row, batch
                row += batch.num_rows


def _batches(reader: Any) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pa.RecordBatchFileReader):
        return (reader.get_batch(number) for number in range(reader.num_record_batches))
    return iter(reader)


@contextmanager
def _reader(place: Place) -> Iterator[Any]:
    with opened(place.address) as handle:
        is_file = handle.read(len(FILE_MARK)) == FILE_MARK
        handle.seek(0)
        source = handle if is_remote(place.address) else pa.memory_map(place.address)
        with pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source) as reader:
            yield reader


def _belongs(place: Place) -> bool:
    """Whether the file is one of the set's own, and none that was computed of it. UserError if rows were chosen of it."""
    state = Path(place.address).parent / STATE
    if is_remote(place.address) or not state.is_file():
        return True
    told = read_json(state)
    try:
        listed = [Path(file["filename"]).name for file in told["_data_files"]]
    except (TypeError, KeyError):
        raise UserError(f"{state}: not as Dataset.save_to_disk writes it, _data_files with a filename each") from None
    if told.get("_indices_files"):
        raise UserError(f"{state.parent}: holds a choice of rows beside the rows; save it again after flatten_indices()")
    return Path(place.address).name in listed
