"""Counting a split's captions and pictures: lengths in tokens, vocabulary, duplicates.

Axes: R rows, K captions of a row, L caption lengths in tokens (end of text included).

Training draws a source by its share of the mixture, one of its rows, then one of its captions; so where lengths and equal
captions are counted, a row weighs share / R and a caption 1 / K of it (`Rows.weights`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from limoe.data.prepared import Prepared
from limoe.data.tokenizer import SPECIAL, Tokenizer, fold

UNCUT = 1 << 30  # tokens: no caption is that long
ENCODE_AT_ONCE = 5000  # captions
Track = Callable[[Sequence[int], str], Iterable[int]]  # goes through pieces of work, showing how far it is


@dataclass(frozen=True)
class Rows:
    """The rows of a split as columns. ids_RK, folded_RK: token ids (uncut) and comparable form of every caption of every row."""

    sources: Sequence[str]
    pictures: Sequence[str]
    ids_RK: Sequence[Sequence[Sequence[int]]]
    folded_RK: Sequence[Sequence[str]]

    @classmethod
    def of(cls, prepared: Prepared, split: str, track: Track) -> Rows:
        """Read a split and encode its captions; its pictures stay closed, their hashes name them."""
        table = prepared.table(split, ["source", "captions", "sha256"])
        captions_RK: list[list[str]] = table["captions"].to_pylist()
        flat = encode(list(chain.from_iterable(captions_RK)), prepared.tokenizer, track)
        ends_R = np.cumsum([len(captions) for captions in captions_RK])
        ids_RK = [flat[end - len(captions) : end] for end, captions in zip(ends_R, captions_RK, strict=True)]
        folded_RK = [[fold(caption) for caption in captions] for captions in captions_RK]
        return cls(table["source"].to_pylist(), table["sha256"].to_pylist(), ids_RK, folded_RK)

    def __len__(self) -> int:
        return len(self.sources)

    def only(self, *sources: str) -> Rows:
        """The rows of these sources."""
        chosen = [row for row, name in enumerate(self.sources) if name in sources]
        columns = (self.sources, self.pictures, self.ids_RK, self.folded_RK)
        return Rows(*([column[row] for row in chosen] for column in columns))  # type: ignore[arg-type]

    def weights(self, shares: Mapping[str, float]) -> NDArray[np.float64]:
        """(R,) chance of each row to be the next that is drawn, where `shares` (they sum to 1) are those of its sources."""
        rows = Counter(self.sources)
        return np.array([shares[source] / rows[source] for source in self.sources])

    def tokens(self) -> NDArray[np.int64]:
        """Every token id of every caption."""
        return np.fromiter((token for captions in self.ids_RK for ids in captions for token in ids), np.int64)


def encode(captions: Sequence[str], tokenizer: Tokenizer, track: Track) -> list[list[int]]:
    """Ids of each caption, uncut, the last one end of text."""
    starts = range(0, len(captions), ENCODE_AT_ONCE)
    parts = [tokenizer.encode(captions[start : start + ENCODE_AT_ONCE], UNCUT) for start in track(starts, "captions to tokens")]
    return list(chain.from_iterable(parts))


@dataclass(frozen=True)
class Lengths:
    """Caption lengths in tokens as training draws them. mean, p50, p95: after the cut at text_length; longest: before it.

    truncated: share of captions that are cut. lost: share of tokens that the cut removes. shares: of each uncut length from 0.
    """

    mean: float
    p50: int
    p95: int
    longest: int
    truncated: float
    lost: float
    shares: tuple[float, ...]

    @classmethod
    def of(cls, ids_RK: Sequence[Sequence[Sequence[int]]], weight_R: NDArray[np.float64], text_length: int) -> Lengths:
        """Of these captions, cut at `text_length`. weight_R: of each row; they sum to 1."""
        lengths = np.array([len(ids) for captions in ids_RK for ids in captions])
        weights = np.repeat(weight_R / [len(captions) for captions in ids_RK], [len(captions) for captions in ids_RK])
        shares_L = np.bincount(lengths, weights).astype(np.float64)
        kept_L = np.minimum(np.arange(len(shares_L)), text_length)
        mean, uncut = float(shares_L @ kept_L), float(shares_L @ np.arange(len(shares_L)))
        p50, p95 = (min(text_length, quantile(shares_L, q)) for q in (0.5, 0.95))
        truncated = float(shares_L[text_length + 1 :].sum())
        return cls(mean, p50, p95, int(lengths.max()), truncated, 1 - mean / uncut, tuple(shares_L.tolist()))


def quantile(shares_L: NDArray[np.float64], q: float) -> int:
    """The smallest length that at least a share `q` does not exceed."""
    return int(np.searchsorted(np.cumsum(shares_L), q - 1e-9))


@dataclass(frozen=True)
class Duplicates:
    """captions: rows that share a caption with another row. pictures: rows whose picture an earlier row has, byte for byte.

    equal_pairs: expected pairs of equal captions among pairs drawn at random (the sampler keeps them apart).
    """

    captions: int
    pictures: int
    equal_pairs: float

    @classmethod
    def of(cls, rows: Rows, shares: Mapping[str, float], pairs: int) -> Duplicates:
        """Of these rows; `pairs` are drawn from their sources by `shares`, or all rows of a source that has fewer."""
        holders: dict[str, set[int]] = defaultdict(set)
        for row, captions in enumerate(rows.folded_RK):
            for caption in captions:
                holders[caption].add(row)
        sharing = set().union(*(found for found in holders.values() if len(found) > 1))
        parts = [rows.only(source).folded_RK for source in shares]
        drawn = [min(pairs * share, len(part)) for share, part in zip(shares.values(), parts, strict=True)]
        return cls(len(sharing), len(rows) - len(set(rows.pictures)), equal_pairs(parts, drawn))


def equal_pairs(folded_SRK: Sequence[Sequence[Sequence[str]]], drawn_S: Sequence[float]) -> float:
    """Expected pairs of equal captions where `drawn` rows of each source come without replacement, one caption of each at random.

    Rows i and j draw the same caption with probability sum_c p_i(c) p_j(c). Over the pairs of one source this sums to
    sum_c ((sum_i p_i(c))^2 - sum_i p_i(c)^2) / 2, and each pair comes with probability d (d - 1) / (R (R - 1)); over the pairs
    of two sources to sum_c (sum_i p_i(c)) (sum_j p_j(c)), and each comes with probability (d / R) (d' / R').

    >>> equal_pairs([[["a"], ["a"], ["b"]]], [2])  # one pair of three
    0.3333333333333333
    >>> equal_pairs([[["a"], ["b"]], [["a"]]], [1, 1])
    0.5
    """
    expected, before = 0.0, defaultdict[str, float](float)  # before: expected rows of the former sources that show a caption
    for folded_RK, drawn in zip(folded_SRK, drawn_S, strict=True):
        rows, total, squares = len(folded_RK), defaultdict[str, float](float), 0.0
        for captions in folded_RK:
            for caption, times in Counter(captions).items():
                total[caption] += times / len(captions)
                squares += (times / len(captions)) ** 2
        if rows > 1 and drawn > 1:
            pairs = (sum(chance**2 for chance in total.values()) - squares) / 2
            expected += pairs * drawn * (drawn - 1) / (rows * (rows - 1))
        shown = {caption: chance * drawn / rows for caption, chance in total.items()}
        expected += sum(chance * before[caption] for caption, chance in shown.items() if caption in before)
        for caption, chance in shown.items():
            before[caption] += chance
    return expected


@dataclass(frozen=True)
class Vocabulary:
    """entries: the tokenizer's, without special tokens. used: share of them in training captions. unknown: share of tokens."""

    entries: int
    used: float
    unknown: float

    @classmethod
    def of(cls, train: Rows, tokenizer: Tokenizer) -> Vocabulary:
        """Of the training captions."""
        tokens, entries = train.tokens(), tokenizer.vocab_size - len(SPECIAL)
        used = np.unique(tokens[tokens >= len(SPECIAL)])
        return cls(entries, len(used) / entries, float((tokens == tokenizer.unk_id).mean()))


@dataclass(frozen=True)
class Validation:
    """A validation split beside the training rows. unknown: share of its tokens that are [UNK]; unseen: in no training caption.

    truncated: share of captions cut. known_captions: share of its rows of which training has a caption. known_pictures: its rows
    whose picture is a training picture, byte for byte.
    """

    split: str
    rows: int
    unknown: float
    unseen: float
    truncated: float
    known_captions: float
    known_pictures: int

    @classmethod
    def of(cls, split: str, rows: Rows, train: Rows, unk_id: int, text_length: int) -> Validation:
        """Of `rows`, the rows of `split`."""
        tokens = rows.tokens()
        captions, pictures = set(chain.from_iterable(train.folded_RK)), set(train.pictures)
        return cls(
            split=split,
            rows=len(rows),
            unknown=float((tokens == unk_id).mean()),
            unseen=float((~np.isin(tokens, train.tokens())).mean()),
            truncated=Lengths.of(rows.ids_RK, np.full(len(rows), 1 / len(rows)), text_length).truncated,
            known_captions=sum(not captions.isdisjoint(mine) for mine in rows.folded_RK) / len(rows),
            known_pictures=sum(picture in pictures for picture in rows.pictures),
        )
