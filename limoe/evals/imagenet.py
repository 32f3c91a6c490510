"""ImageNet's 1,000 classes: identifiers from timm, names and prompts from open_clip, checked against each other.

Which numbers may be compared: top-1 with the ensemble of 80 prompts is what CLIP and its successors publish, up to the rule for
ties: two names stand for two classes each (`missile`, `sunglasses`), whose pictures are tied and counted as misses here, which
costs at most 0.4 points. A set of part of the classes (ImageNet-A, -R) is scored among those alone, as usual.

Axes: C classes, S synonyms, G trigrams.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from limoe.errors import UserError

SUBSETS = ("imagenet", "imagenet-a", "imagenet-r")
SINGLE = "a photo of a {}."
RUN, FITTING = 10, 5  # of so many successive names, at least so many are nearest to their own class
ADVICE = "install the packages that constraints.txt pins"


@cache
def wnids(subset: str = "imagenet") -> tuple[str, ...]:
    """WordNet ids of one of SUBSETS, in the order of the labels."""
    return tuple(_timm_lines(f"{subset.replace('-', '_')}_synsets.txt"))


@cache
def lemmas() -> tuple[str, ...]:
    """WordNet's synonyms of each class, between commas, in the order of the labels."""
    told = dict(line.split("\t") for line in _timm_lines("imagenet_synset_to_lemma.txt"))
    return tuple(told[wnid] for wnid in wnids())


def _timm_lines(file: str) -> list[str]:
    """A list that timm ships, found without importing timm, which takes seconds."""
    found = find_spec("timm")
    if found is None or found.origin is None:
        raise UserError("ImageNet's classes need the package timm; install it (it comes with open_clip_torch)")
    return (Path(found.origin).parent / "data" / "_info" / file).read_text(encoding="utf-8").splitlines()


def _open_clip() -> ModuleType:
    try:
        import open_clip
    except ImportError:
        raise UserError("ImageNet's class names and prompts need the package open_clip_torch; install it") from None
    found: ModuleType = open_clip
    return found


@cache
def names() -> Mapping[str, str]:
    """wnid -> open_clip's name, in the order of the labels. UserError if the two packages' orders differ."""
    told = _open_clip().IMAGENET_CLASSNAMES
    check_order(told, wnids(), lemmas())
    for subset in SUBSETS[1:]:
        if unknown := sorted(set(wnids(subset)) - set(wnids())):
            raise UserError(f"timm's list of {subset} has {unknown[0]}, which its list of ImageNet lacks; {ADVICE}")
    return dict(zip(wnids(), told, strict=True))


@cache
def prompts() -> Mapping[str, tuple[str, ...]]:
    """CLIP's ensemble of 80 templates as `""`, its `best-7`, and a `single` one."""
    told = _open_clip()
    full = tuple(fill("{}") for fill in told.OPENAI_IMAGENET_TEMPLATES)
    best = tuple(fill("{}") for fill in told.SIMPLE_IMAGENET_TEMPLATES)
    if (len(set(full)), len(set(best))) != (80, 7) or not {*best, SINGLE} <= set(full):
        raise UserError(f"open_clip's {len(full)} and {len(best)} templates are not CLIP's 80 and 7; {ADVICE}")
    return {"": full, "best-7": best, "single": (SINGLE,)}


def to_wnids(labels: Sequence[str], where: Path, subset: str | None) -> list[str]:
    """wnids as they are; numbers as places in the subset's list (all 1,000, by default); UserError names any other label."""
    known = wnids(subset or "imagenet")
    if all(map(str.isdecimal, labels)):
        if (largest := max(map(int, labels))) >= len(known):
            raise UserError(f"{where}: the label {largest} is out of range: {len(known)} classes are counted from 0")
        return [known[int(label)] for label in labels]
    if unknown := sorted(set(labels) - set(known)):
        raise UserError(f"{where}: the class {unknown[0]!r} is no wnid of {subset or 'imagenet'}, nor are all numbers")
    return list(labels)


def candidates(present: set[str], where: Path, subset: str | None) -> tuple[str, ...]:
    """The classes that pictures are classified among: the subset's; by default that one of SUBSETS of which each class has a
    picture. UserError if none is so: a part of ImageNet among all 1,000 names is another task than among its own."""
    if subset is not None:
        return wnids(subset)
    for name in SUBSETS:
        if present == set(wnids(name)):
            return wnids(name)
    missing = next(wnid for wnid in wnids() if wnid not in present)
    raise UserError(
        f"{where}: has {len(present)} of ImageNet's {len(wnids()):,} classes, which are not those of ImageNet-A or -R either; "
        f"{missing} is the first that is missing; say with the set's key subset which classes to choose among"
    )


def named(ids: Sequence[str]) -> tuple[str, ...]:
    """Names of a user's wnids; UserError for one that ImageNet lacks."""
    if unknown := [wnid for wnid in ids if wnid not in names()]:
        raise UserError(f"the class {unknown[0]!r} is not among ImageNet's {len(names()):,} wnids")
    return tuple(names()[wnid] for wnid in ids)


def check_order(told: Sequence[str], ids: Sequence[str], synonyms: Sequence[str]) -> None:
    """UserError, which says where, if `told` are not the names of the classes `ids` in this order.

    Names and WordNet's lemmas (synonyms between commas) differ in many words, so one misfit proves nothing. But nearly every name
    resembles its own class's lemmas most: a run of classes where most do not is shifted, and names that resemble each other's
    classes in a circle (two that are swapped, say) have changed places.
    """
    if len(told) != len(ids):
        raise UserError(f"{len(told)} class names for {len(ids)} classes; {ADVICE}")
    nearest_C = _nearest(told, synonyms)
    own_C = np.arange(len(told))
    fitting = np.convolve(nearest_C == own_C, np.ones(RUN), "valid")
    circling_C = nearest_C
    for _ in range(len(told).bit_length()):  # whoever is still reached after C steps lies on a circle
        circling_C = circling_C[circling_C]
    circles = [place for place in np.unique(circling_C) if nearest_C[place] != place]
    wrong = [*(np.flatnonzero(fitting < FITTING) + RUN // 2), *circles]
    if wrong:
        first = int(wrong[0])
        raise UserError(
            f"class names are out of order near number {first}: {told[first]!r} stands for {ids[first]} ({synonyms[first]}); "
            f"{ADVICE}"
        )


def _nearest(told: Sequence[str], lists: Sequence[str]) -> NDArray[np.int64]:
    """(C,): the class one of whose synonyms resembles each name most, by the cosine of their trigrams; its own where it ties."""
    synonyms = [synonym for listed in lists for synonym in listed.split(",")]
    first_C = np.cumsum([0, *(listed.count(",") + 1 for listed in lists)])[:-1]
    columns = {gram: column for column, gram in enumerate(sorted(set().union(*map(_trigrams, [*told, *synonyms]))))}
    cosine_CS = _incidence(told, columns) @ _incidence(synonyms, columns).T
    cosine_CC = np.maximum.reduceat(cosine_CS, first_C, axis=1)
    found: NDArray[np.int64] = (cosine_CC + 1e-6 * np.eye(len(told))).argmax(1)
    return found


def _trigrams(text: str) -> set[str]:
    padded = " ".join(["", *re.findall("[a-z]+", text.lower()), ""])
    return {padded[start : start + 3] for start in range(len(padded) - 2)}


def _incidence(texts: Sequence[str], columns: Mapping[str, int]) -> NDArray[np.float32]:
    """(len(texts), G): unit rows, equal where the text has the trigram, else 0."""
    found = np.zeros((len(texts), len(columns)), np.float32)
    for row, text in enumerate(texts):
        found[row, [columns[gram] for gram in _trigrams(text)]] = 1
    rows: NDArray[np.float32] = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1)
    return rows
