"""`webdataset`: tars of samples, files that differ in their suffix alone: `KEY.jpg` with `KEY.json`, `KEY.txt` or `KEY.cls`.

What img2dataset writes is read so, and anything else that the package `webdataset` groups into samples. A part is a tar.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from limoe.config import SetParams
from limoe.data.formats.folders import SUFFIXES
from limoe.data.formats.samples import READERS, key_and_suffix
from limoe.data.sources.base import Part, Rejected
from limoe.data.sources.images import MAX_BYTES
from limoe.data.sources.own import Item, OwnSource
from limoe.data.sources.places import Place, counted, find, opened
from limoe.data.sources.splits import named_splits
from limoe.data.sources.tars import members
from limoe.data.verify import BadImage

TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
PICTURES = tuple(suffix.removeprefix(".") for suffix in SUFFIXES)
MAX_TEXT = 16 << 20  # bytes of a member that is no picture


class WebDataset(OwnSource):
    """The samples of tars, here or at any address of fsspec's."""

    def __init__(self, name: str, params: SetParams, root: Path) -> None:
        """UserError if there is no tar; none is opened."""
        super().__init__(name, params, root)
        self._places = {place.name: place for place in find(root, params.path, TARS)}
        self._splits = named_splits(self._places)

    @property
    def parts(self) -> Sequence[Part]:
        """The tars."""
        return [Part(name) for name in self._places]

    def items(self, part: Part) -> Iterator[Item | Rejected]:
        """The samples of one tar; where it breaks off, those before that and a rejected one."""
        from webdataset.tariterators import group_by_keys

        place, refused = self._places[part.name], list[Rejected]()

        def twice(error: Exception) -> bool:
            refused.append(self.rejected(place.name, BadImage("duplicate-member", str(error.args[0])[:200])))
            return True

        for sample in group_by_keys(self._files(place, refused), keys=key_and_suffix, handler=twice):
            yield from refused
            refused.clear()
            yield self._item(place, sample)
        yield from refused

    def inputs(self, part: Part) -> Sequence[str]:
        """The tar."""
        return (self._places[part.name].address,)

    def provenance(self) -> dict[str, Any]:
        """Number of tars, and their bytes where they are here."""
        return {**super().provenance(), **counted(self._places.values())}

    def _files(self, place: Place, refused: list[Rejected]) -> Iterator[dict[str, Any]]:
        """Members as `group_by_keys` takes them: of a sample one picture, and what is said about it."""
        last = ""
        try:
            with opened(place.address) as stream:
                for name, content in members(stream, _most):
                    key, suffix = key_and_suffix(name)
                    if suffix in PICTURES:
                        if key == last:
                            continue
                        last = key
                    yield {"fname": name, "data": content, "__url__": place.name}
        except (BadImage, OSError) as error:
            found = error if isinstance(error, BadImage) else BadImage("unreadable", error.strerror or type(error).__name__)
            refused.append(self.rejected(place.name, found))

    def _item(self, place: Place, sample: Mapping[str, Any]) -> Item | Rejected:
        key = f"{place.stem}/{sample['__key__']}"
        try:
            said: dict[str, Any] = {}
            for suffix, reader in READERS.items():
                if suffix in sample:
                    said |= _read(suffix, reader, sample[suffix])
            image = next((sample[suffix] for suffix in PICTURES if suffix in sample), None)
            if image is None:
                raise BadImage("no-image", f"a sample without a picture; allowed suffixes are {', '.join(SUFFIXES)}")
            return Item(key, _whole(image), **said, file_split=self._splits.get(place.name))
        except BadImage as error:
            return self.rejected(key, error)


def _most(name: str) -> int:
    _, suffix = key_and_suffix(name)
    return MAX_BYTES if suffix in PICTURES else MAX_TEXT if suffix in READERS else 0


def _whole(content: bytes | BadImage) -> bytes:
    if isinstance(content, BadImage):
        raise content
    return content


def _read(suffix: str, reader: Any, content: bytes | BadImage) -> dict[str, Any]:
    try:
        found: dict[str, Any] = reader(_whole(content).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadImage("bad-row", f"its {suffix} cannot be read ({' '.join(str(error).split())[:200]})") from None
    return found
