"""Whether a candidate becomes a record: what can be said of it alone, without the rest of the set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from itertools import islice
from typing import Protocol

from limoe.config import PrepareParams
from limoe.data.captions import CaptionCheck, Why
from limoe.data.pictures import stored
from limoe.data.schema import Record
from limoe.data.sources import Candidate, Rejected
from limoe.data.verify import BadImage, measure

Scorer = Callable[[Sequence[bytes], Sequence[Sequence[str]]], list[list[float]]]  # pictures, captions of each -> cosines of each
SCORED_TOGETHER = 64  # records


class Opens(Protocol):
    """Opens a scorer in whichever process it is sent to. Hashable, by value."""

    @property
    def weights(self) -> str:
        """What names the model's weights."""

    def __call__(self) -> Scorer:
        """The scorer; UserError if it has other weights."""


class Checks:
    """The checks of one part. dropped: captions that were left out beside others that stayed, by reason."""

    def __init__(self, params: PrepareParams, words: CaptionCheck, scorer: Scorer | None = None) -> None:
        """scorer: needed if the params have a `clip_score`."""
        self._params, self._words, self._scorer = params, words, scorer
        self.dropped: Counter[str] = Counter()

    def run(self, candidates: Iterable[Candidate | Rejected]) -> Iterator[Record | Rejected]:
        """What each of them becomes, in their order."""
        found = map(self._check, candidates)
        if self._scorer is None or self._params.clip_score is None:
            yield from found
            return
        while together := list(islice(found, SCORED_TOGETHER)):
            yield from self._scored(together, self._scorer, self._params.clip_score.at_least)

    def _check(self, candidate: Candidate | Rejected) -> Record | Rejected:
        if isinstance(candidate, Rejected):
            return candidate
        if not candidate.captions or not all(caption.strip() for caption in candidate.captions):
            return Rejected(candidate.key, candidate.source, "empty-caption", "no caption, or one of white space alone")
        captions = self._left(candidate, candidate.captions, [self._words(caption) for caption in candidate.captions])
        if isinstance(captions, Rejected):
            return captions
        try:
            size = candidate.size or measure(candidate.image, self._params.max_pixels)
            image, (width, height) = stored(candidate.image, size, self._params.pictures)
        except BadImage as error:
            return Rejected(candidate.key, candidate.source, error.reason, error.detail)
        values = {field.name: getattr(candidate, field.name) for field in fields(candidate) if field.name != "size"}
        return Record(**(values | {"image": image, "captions": captions}), width=width, height=height)

    def _scored(self, found: Sequence[Record | Rejected], scorer: Scorer, least: float) -> Iterator[Record | Rejected]:
        """The same without captions that the model finds too unlike their picture."""
        records = [one for one in found if isinstance(one, Record)]
        scores = iter(scorer([one.image for one in records], [one.captions for one in records]) if records else ())
        for one in found:
            if isinstance(one, Record):
                low = [None if score >= least else ("low-clip-score", f"{score:.3f}") for score in next(scores)]
                captions = self._left(one, one.captions, low)
                yield captions if isinstance(captions, Rejected) else replace(one, captions=captions)
            else:
                yield one

    def _left(self, one: Candidate | Record, captions: Sequence[str], whys: Sequence[Why | None]) -> tuple[str, ...] | Rejected:
        """The captions with nothing wrong; if there is none, the first one's trouble is the record's."""
        left = tuple(caption for caption, why in zip(captions, whys, strict=True) if why is None)
        wrong = [why for why in whys if why is not None]
        if not left:
            return Rejected(one.key, one.source, *wrong[0])
        self.dropped.update(reason for reason, _ in wrong)
        return left
