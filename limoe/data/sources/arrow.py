"""Sets of columns in Arrow's types, Parquet's and Hugging Face's: rows become items, one that breaks breaks off alone."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from limoe.config import SetParams
from limoe.data.formats.samples import label_names
from limoe.data.formats.splits import named_splits
from limoe.data.sources.base import Part, Rejected
from limoe.data.sources.columns import Columns
from limoe.data.sources.images import ImageFolder
from limoe.data.sources.own import Item, OwnSource
from limoe.data.sources.places import Place, counted
from limoe.data.sources.table import columns_among, images_folder
from limoe.data.verify import BadImage
from limoe.errors import UserError


class InColumns(OwnSource):
    """A set whose files have columns; a kind adds how a part is read."""

    def __init__(self, name: str, params: SetParams, root: Path, places: Sequence[Place]) -> None:
        """No file is opened; UserError if there is no such folder of images."""
        super().__init__(name, params, root)
        self.places = {place.name: place for place in places}
        self.columns: dict[str, Columns] = {}
        self._label_names: dict[str, tuple[str, ...]] = {}
        self._splits = named_splits(self.places)
        self._images = {place.name: ImageFolder(images_folder(params, root, place), root) for place in places}

    def know(self, place: Place, schema: pa.Schema) -> None:
        """Choose the file's columns; UserError if one that is needed is not there, or holds something else."""
        columns = columns_among(schema.names, self.params, place)
        if not _may_hold_images(kind := schema.field(columns.image).type):
            raise UserError(f"{place.address}: its column {columns.image} holds {kind}, not bytes, paths or data URIs of images")
        self.columns[place.name] = columns
        self.chosen = self.chosen or columns
        self._label_names[place.name] = label_names(schema, columns.label)

    @abstractmethod
    def batches(self, part: Part) -> Iterator[tuple[int, pa.RecordBatch]]:
        """(number of the first row in its file, rows) for all of the part's rows; any of Arrow's errors, or an OSError."""

    def items(self, part: Part) -> Iterator[Item | Rejected]:
        """See OwnSource."""
        place = self.places[part.name]
        try:
            for first, batch in self.batches(part):
                for row in range(batch.num_rows):
                    yield self._item(place, f"{place.stem}/{first + row:07d}", batch, row)
        except (pa.ArrowException, OSError, UnicodeDecodeError, MemoryError) as error:
            detail = " ".join(str(error).split())[:300]
            yield self.rejected(f"{place.name}/{part.start}", BadImage("unreadable", f"broken from here on: {detail}"))

    def inputs(self, part: Part) -> Sequence[str]:
        """The file; pictures that its rows name are not looked up."""
        return (self.places[part.name].address,)

    def provenance(self) -> dict[str, Any]:
        """Number of files, and their bytes where they are here."""
        return {**super().provenance(), **counted(self.places.values())}

    def _item(self, place: Place, key: str, batch: pa.RecordBatch, row: int) -> Item | Rejected:
        columns = self.columns[place.name]
        try:
            values = {name: batch.column(name)[row].as_py() for name in columns.used}
            image = self._images[place.name].fetch(values[columns.image])
            told = columns.told(values)
            told["label"] = self._called(place, told["label"])
            return Item(key, image, columns.spoken(values), **told, file_split=self._splits.get(place.name))
        except (UnicodeDecodeError, OverflowError) as error:
            wrong = "a text that is no UTF-8" if isinstance(error, UnicodeDecodeError) else "a date that is beyond all calendars"
            return self.rejected(key, BadImage("bad-row", wrong))
        except BadImage as error:
            return self.rejected(key, error)

    def _called(self, place: Place, label: Any) -> Any:
        """The name that the file itself has for a number, unless the user's file names it."""
        names = self._label_names[place.name]
        known = names and self.classes.names_of is None and isinstance(label, int) and 0 <= label < len(names)
        return names[label] if known else label


def _may_hold_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(kind.get_field_index(name) >= 0 for name in ("bytes", "path"))
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    holds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(check(kind) for check in (*holds, *texts))
