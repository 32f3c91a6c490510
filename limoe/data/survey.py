"""What is in a set of the user's own, from a look at some of it: what `limoe inspect` says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import mean, median
from typing import Any

from limoe.config import SetParams
from limoe.data.groups import conflicts
from limoe.data.rgb import open_encoded
from limoe.data.sources import Candidate, Rejected, Source, open_set
from limoe.data.sources.own import OwnSource
from limoe.data.verify import BadImage, measure

LOOKED_AT = 1000  # inputs that are read
PARTS = 20  # that they are read from, spread over the set
MAX_PIXELS = 50_000_000


@dataclass(frozen=True)
class Picture:
    """A picture of the set that decodes. size: its bytes, which `candidate` has in samples alone."""

    candidate: Candidate
    width: int
    height: int
    form: str
    size: int


@dataclass(frozen=True)
class Survey:
    """facts: plain values for people and programs. pictures: those that were looked at and are good. samples: some of these,
    evenly spread."""

    params: SetParams
    facts: dict[str, Any]
    pictures: Sequence[Picture]
    samples: Sequence[Picture]


class Samples:
    """So many of what comes, evenly spread, however much that is: of every second, fourth and so on twice as many are held."""

    def __init__(self, count: int) -> None:
        self._count, self._seen, self._step = count, 0, 1
        self._held: list[Picture] = []

    def add(self, picture: Picture) -> None:
        """The next one."""
        if self._seen % self._step == 0:
            self._held.append(picture)
        if len(self._held) > 2 * self._count:
            self._held, self._step = self._held[::2], 2 * self._step
        self._seen += 1

    def chosen(self) -> list[Picture]:
        """The samples; all, if no more have come."""
        number = min(self._count, len(self._held))
        return [self._held[place * len(self._held) // number] for place in range(number)]


def survey(
    name: str, params: SetParams, root: Path, watched: Callable[[Iterator[Any]], Iterator[Any]], samples: int = 0
) -> Survey:
    """Look at up to LOOKED_AT inputs of the set, and keep so many pictures; UserError if it is not as its kind has to be.

    watched: passes the inputs on, with a progress bar.
    """
    source = open_set(name, params, root)
    pictures: list[Picture] = []
    kept = Samples(samples)
    rejected: list[Rejected] = []
    for found in watched(_some(source)):
        try:
            if isinstance(found, Rejected):
                rejected.append(found)
            else:
                kept.add(picture := _measured(found))
                pictures.append(replace(picture, candidate=replace(found, image=b"")))
        except BadImage as error:
            rejected.append(Rejected(found.key, name, error.reason, error.detail))
    seen = len(pictures) + len(rejected)
    apart = conflicts([one.candidate for one in pictures])
    rejected += apart
    keys = {row.key for row in apart}
    pictures = [one for one in pictures if one.candidate.key not in keys]
    facts = {
        **source.provenance(),
        "items": source.total,
        "looked_at": seen,
        "columns": _columns(source),
        **_captions(pictures),
        "labels": _labels(pictures),
        "splits": dict(sorted(Counter(one.candidate.split for one in pictures).items())),
        **_sizes(pictures),
        "rejected": _reasons(rejected),
    }
    return Survey(source.params, facts, pictures, kept.chosen())


def _some(source: Source) -> Iterator[Candidate | Rejected]:
    """The first inputs of parts that are spread over the set; all of it, where it is small."""
    parts = source.parts
    chosen = parts if len(parts) <= PARTS else [parts[place * len(parts) // PARTS] for place in range(PARTS)]
    for number, part in enumerate(chosen):
        yield from islice(source.candidates(part), LOOKED_AT * (number + 1) // len(chosen) - LOOKED_AT * number // len(chosen))


def _measured(candidate: Candidate) -> Picture:
    width, height = measure(candidate.image, MAX_PIXELS)
    form = open_encoded(candidate.image).format or "unknown"
    return Picture(candidate, width, height, form, len(candidate.image))


def _columns(source: OwnSource) -> dict[str, Any] | None:
    return asdict(source.chosen) if source.chosen else None


def _captions(pictures: Sequence[Picture]) -> dict[str, Any]:
    each = [one.candidate.captions for one in pictures]
    captions = [caption for listed in each for caption in listed]
    words = [len(caption.split()) for caption in captions]
    return {
        "captions_a_picture": _spread([len(listed) for listed in each]),
        "words_a_caption": _spread(words),
        "characters_a_caption": _spread([len(caption) for caption in captions]),
        "different_captions": round(len(set(captions)) / len(captions), 3) if captions else None,
    }


def _labels(pictures: Sequence[Picture]) -> dict[str, Any] | None:
    found = Counter(one.candidate.label for one in pictures if one.candidate.label is not None)
    return {"different": len(found), "commonest": [label for label, _ in found.most_common(5)]} if found else None


def _sizes(pictures: Sequence[Picture]) -> dict[str, Any]:
    return {
        "formats": dict(Counter(one.form for one in pictures).most_common()),
        "width": _spread([one.width for one in pictures]),
        "height": _spread([one.height for one in pictures]),
        "shorter_side": _spread([min(one.width, one.height) for one in pictures]),
        "bytes_a_picture": _spread([one.size for one in pictures]),
    }


def _spread(values: Sequence[int]) -> dict[str, float] | None:
    if not values:
        return None
    return {"least": min(values), "median": median(values), "mean": round(mean(values), 1), "most": max(values)}


def _reasons(rejected: Sequence[Rejected]) -> dict[str, Any]:
    """By reason: how many, and the first one."""
    counts = Counter(row.reason for row in rejected)
    firsts = {row.reason: f"{row.key}: {row.detail}" for row in reversed(rejected)}
    return {reason: {"count": count, "first": firsts[reason]} for reason, count in counts.most_common()}
