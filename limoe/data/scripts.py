"""Captions by source and script: how well the vocabulary covers them, and how many are cut.

A caption's script is the one that most of its letters are written in, told from Unicode's names. That is not its language: German
and English are both Latin, and a record does not say which it is. It is enough to see that a tokenizer does not cover a set's
Arabic, or that its Chinese captions are cut.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from limoe.data.statistics import Rows
from limoe.data.tokenizer import SPECIAL

NO_SCRIPT = "no letters"


@dataclass(frozen=True)
class Kind:
    """Training captions of one source in one script. share: of the source's captions, as training draws them. tokens: mean
    length, uncut. truncated: share of captions that are cut. unknown: share of tokens that are [UNK]. used: entries of the
    vocabulary that they use."""

    source: str
    script: str
    captions: int
    share: float
    tokens: float
    truncated: float
    unknown: float
    used: int

    @classmethod
    def of(cls, source: str, script: str, captions: Sequence[tuple[Sequence[int], float]], unk_id: int, length: int) -> Kind:
        """captions: ids, the last one end of text, and the chance of each among its source's."""
        weight_C = np.array([weight for _, weight in captions])
        length_C = np.array([len(ids) for ids, _ in captions])
        tokens: NDArray[np.int64] = np.concatenate([np.array(ids, np.int64) for ids, _ in captions])
        return cls(
            source=source,
            script=script,
            captions=len(captions),
            share=float(weight_C.sum()),
            tokens=float(length_C @ weight_C / weight_C.sum()),
            truncated=float((length_C > length) @ weight_C / weight_C.sum()),
            unknown=float((tokens == unk_id).mean()),
            used=len(np.unique(tokens[tokens >= len(SPECIAL)])),
        )


def kinds(rows: Rows, unk_id: int, length: int) -> tuple[Kind, ...]:
    """By source, then by script, the most frequent one first. length: tokens that captions are cut at."""
    found: dict[str, dict[str, list[tuple[Sequence[int], float]]]] = defaultdict(lambda: defaultdict(list))
    of_source = Counter(rows.sources)
    for source, folded_K, ids_K in zip(rows.sources, rows.folded_RK, rows.ids_RK, strict=True):
        chance = 1 / (of_source[source] * len(ids_K))
        for folded, ids in zip(folded_K, ids_K, strict=True):
            found[source][script_of(folded)].append((ids, chance))
    each = [
        Kind.of(source, script, captions, unk_id, length)
        for source, scripts in found.items()
        for script, captions in scripts.items()
    ]
    return tuple(sorted(each, key=lambda kind: (kind.source, -kind.share, kind.script)))


def script_of(text: str) -> str:
    """The script of most letters, the first one where several have as many.

    >>> script_of("a red дом"), script_of("12:30"), script_of("紅い家")
    ('Latin', 'no letters', 'Cjk')
    """
    if text.isascii():
        return "Latin" if any(map(str.isalpha, text)) else NO_SCRIPT
    counts = Counter(script for character in text if (script := _script(character)))
    return counts.most_common(1)[0][0] if counts else NO_SCRIPT


@lru_cache(maxsize=1 << 16)
def _script(character: str) -> str:
    """The first word of a letter's name; Japanese is written in three, Hiragana and Katakana beside Cjk."""
    return unicodedata.name(character, "").split(" ")[0].capitalize() if character.isalpha() else ""
