"""Whether a candidate becomes a record: what can be said of it alone, without the rest of the set."""

from __future__ import annotations

from dataclasses import fields

from limoe.config import PrepareParams
from limoe.data.schema import Record
from limoe.data.sources import Candidate, Rejected
from limoe.data.verify import BadImage, measure


def check(candidate: Candidate, params: PrepareParams) -> Record | Rejected:
    """The candidate as a record, or why it is none."""
    key, source = candidate.key, candidate.source
    if not candidate.captions or not all(caption.strip() for caption in candidate.captions):
        return Rejected(key, source, "empty-caption", "no caption, or one of white space alone")
    try:
        width, height = candidate.size or measure(candidate.image, params.max_pixels)
    except BadImage as error:
        return Rejected(key, source, error.reason, error.detail)
    values = {field.name: getattr(candidate, field.name) for field in fields(candidate) if field.name != "size"}
    return Record(**values, width=width, height=height)
