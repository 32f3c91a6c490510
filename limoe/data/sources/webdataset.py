"""`webdataset`: tars of samples, files that differ in their suffix alone: `KEY.jpg` with `KEY.json`, `KEY.txt` or `KEY.cls`.

What img2dataset writes is read so, and anything else that the package `webdataset` groups into samples. A part is a tar. With
`in_place` its training pictures are not copied: their records say where in which tar they lie (limoe/data/inplace.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from limoe.config import SetParams
from limoe.data.addresses import opened
from limoe.data.formats.folders import SUFFIXES
from limoe.data.formats.samples import READERS, key_and_suffix
from limoe.data.formats.splits import named_splits
from limoe.data.inplace import BASE, located
from limoe.data.schema import TRAIN, InTar
from limoe.data.sources.base import Candidate, Part, Rejected
from limoe.data.sources.images import MAX_BYTES
from limoe.data.sources.own import Item, OwnSource
from limoe.data.sources.places import Place, base_of, counted, find
from limoe.data.sources.tars import Member, members
from limoe.data.sources.texts import found_label
from limoe.data.verify import BadImage
from limoe.errors import UserError

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
TARS = (".tar", *COMPRESSED)
PICTURES = tuple(suffix.removeprefix(".") for suffix in SUFFIXES)
MAX_TEXT = 16 << 20  # bytes of a member that is no picture
MOST_WAITING = 1000  # pictures of a sample that wait for one without a further dot in its name


class WebDataset(OwnSource):
    """The samples of tars, here or at any address of fsspec's."""

    def __init__(self, name: str, params: SetParams, root: Path) -> None:
        """UserError if there is no tar, or with `in_place` one that is compressed by its name; none is opened."""
        super().__init__(name, params, root)
        found = find(root, params.path, TARS)
        self._base = base_of(root, params.path, found)
        if params.in_place:
            found = [self._staying(place) for place in found]
        self._places = {place.name: place for place in found}
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
            yield from self._taken(place, sample)
        yield from refused

    def candidate(self, item: Item) -> Candidate:
        """See OwnSource; with `in_place` a training picture stays in its tar. BadImage if it does not lie there as it is."""
        found = super().candidate(item)
        if not self.params.in_place or found.split != TRAIN:
            return found
        if item.tar is None or item.offset is None:
            raise BadImage("not-in-place", "compressed, or a sparse member: with in_place a picture must lie in its tar as it is")
        return replace(found, stays=InTar(item.tar, item.offset, len(item.image)))

    def inputs(self, part: Part) -> Sequence[str]:
        """The tar."""
        return (self._places[part.name].address,)

    def provenance(self) -> dict[str, Any]:
        """Number of tars, and their bytes where they are here; with `in_place`, where their names begin."""
        begin = {BASE: self._base} if self.params.in_place else {}
        return {**super().provenance(), **counted(self._places.values()), **begin}

    def _staying(self, place: Place) -> Place:
        """The tar as training will open it."""
        if place.name.lower().endswith(COMPRESSED):
            raise UserError(
                f"{place.name} is compressed, so that no picture can be read alone: unpack it (gzip -d and the like), or set "
                "in_place to false"
            )
        return replace(place, address=located(self.root, self._base, place.name))

    def _files(self, place: Place, refused: list[Rejected]) -> Iterator[dict[str, Any]]:
        """Members as `group_by_keys` takes them: of a sample one picture, and what is said about it."""
        last, waiting, ahead = "", "", 0
        try:
            with opened(place.address) as stream:
                for member in members(stream, _most):
                    key, suffix = key_and_suffix(member.name)
                    if f".{suffix}".endswith(SUFFIXES):
                        if key == last:
                            continue
                        if suffix in PICTURES:
                            last = key
                        else:
                            waiting, ahead = key, ahead % MOST_WAITING + 1 if key == waiting else 1
                            if ahead == MOST_WAITING:
                                yield {}  # the sample's end, without memory for ever more of it
                    yield {"fname": member.name, "data": member, "__url__": place.name}
        except (BadImage, OSError) as error:
            found = error if isinstance(error, BadImage) else BadImage("unreadable", error.strerror or type(error).__name__)
            refused.append(self.rejected(place.name, found))

    def _taken(self, place: Place, sample: Mapping[str, Any]) -> Iterator[Item | Rejected]:
        """The sample; or its pictures, rejected, if all of them have a further dot in their name."""
        dotted = [member.name.removeprefix("./") for suffix, member in sample.items() if "." in suffix]
        if not dotted or any(suffix in sample for suffix in PICTURES):
            yield self._item(place, sample)
            return
        for name in dotted:
            suffix, key = name.rpartition("/")[2].partition(".")[2], sample["__key__"]
            detail = (
                f"a dot in the name: a sample's name ends at the first one, so {name} is the {suffix} of a sample {key!r}, which "
                "has no picture of its own; rename it and what belongs to it"
            )
            yield self.rejected(f"{place.stem}/{name.rpartition('.')[0]}", BadImage("dotted-name", detail))

    def _item(self, place: Place, sample: Mapping[str, Any]) -> Item | Rejected:
        key = f"{place.stem}/{sample['__key__']}"
        try:
            said: dict[str, Any] = {}
            for suffix, reader in READERS.items():
                if suffix in sample:
                    said |= _read(suffix, reader, sample[suffix])
            if "label" in said:
                said["label"] = found_label(said["label"], bool(said.get("captions")))
            image = next((sample[suffix] for suffix in PICTURES if suffix in sample), None)
            if image is None:
                raise BadImage("no-image", f"a sample without a picture; allowed suffixes are {', '.join(SUFFIXES)}")
            split = self._splits.get(place.name)
            return Item(key, _whole(image), **said, file_split=split, tar=place.name, offset=image.offset)
        except BadImage as error:
            return self.rejected(key, error)


def _most(name: str) -> int | None:
    """Bytes that are read of a member, 0 of a picture with a further dot in its name; None of what no sample needs."""
    key, suffix = key_and_suffix(name)
    if suffix in PICTURES or suffix in READERS:
        return MAX_BYTES if suffix in PICTURES else MAX_TEXT
    hidden = key.endswith("/") or not key
    return 0 if suffix.endswith(SUFFIXES) and not hidden else None


def _whole(member: Member) -> bytes:
    if isinstance(member.content, BadImage):
        raise member.content
    return member.content


def _read(suffix: str, reader: Any, member: Member) -> dict[str, Any]:
    try:
        found: dict[str, Any] = reader(_whole(member).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadImage("bad-row", f"its {suffix} cannot be read ({' '.join(str(error).split())[:200]})") from None
    return found
