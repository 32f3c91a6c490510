"""Pictures that repeat others, though their bytes differ: a perceptual hash, and every pair of hashes that differ in few bits.

Axes: N hashes, M others, P pairs, uint64 a hash. Nothing here is approximate but the hash itself: no pair is missed.

The hash is the signs of a picture's 64 lowest frequencies. Saving it again, resizing it, and a little more or less light change
few of them; a mirrored or cropped picture has another hash. A drawing that is plain, or symmetric, has many frequencies next to
zero, whose signs are chance: its hash is PLAIN, and it repeats others only byte for byte. What was measured: docs/data.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limoe.data.rgb import open_encoded, to_rgb

Hashes = NDArray[np.uint64]
Rows = NDArray[np.int64]

BITS, SIDE = 64, 32  # of the hash; px of the grey square that it is taken from
PLAIN = 0  # the hash of a picture that has none: it is near no other
FAINT, MOST_FAINT = 8.0, 16  # a coefficient below 8 moves the grey square by less than a quarter of a level (root mean square)
RADIUS = 6  # bits in which the hashes of near pictures may differ, by default
CHUNK = 1 << 20  # pairs looked at together: tens of MiB
FEWEST_BLOCKS = 4  # of 16 bits: the table of where each value starts stays in the processor's cache

_FREQUENCIES = sorted(((u, v) for u in range(11) for v in range(11) if u + v), key=lambda uv: (sum(uv), uv))[:BITS]
_ROWS, _COLUMNS = np.array(_FREQUENCIES).T
_COSINES_FS = np.sqrt(2 / SIDE) * np.cos(np.pi / SIDE * (np.arange(SIDE) + 0.5) * np.arange(11)[:, None])
_COSINES_FS[0] /= np.sqrt(2)


def hash_encoded(image: bytes) -> int:
    """`perceptual_hash` of an encoded picture that verify.measure accepts; a large JPEG is decoded at a fraction of its scale."""
    picture = open_encoded(image)
    picture.draft("RGB", (4 * SIDE, 4 * SIDE))
    return perceptual_hash(to_rgb(picture))


def perceptual_hash(picture: Image.Image) -> int:
    """The 64-bit hash of an upright RGB picture (rgb.to_rgb), of any size; PLAIN if it has none.

    Bit i is set if the i-th of the lowest frequencies of the picture (orthonormal DCT-II of its grey values, squeezed to 32 x 32
    px, without their mean) is positive. Near pictures: at most RADIUS bits differ.
    """
    grey_SS = np.asarray(picture.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS), dtype=np.float64)
    coefficients_F = (_COSINES_FS @ grey_SS @ _COSINES_FS.T)[_ROWS, _COLUMNS]
    if np.count_nonzero(np.abs(coefficients_F) < FAINT) > MOST_FAINT:
        return PLAIN
    return int.from_bytes(np.packbits(coefficients_F > 0, bitorder="little").tobytes(), "little")


def repeats(hashes_N: Hashes, radius: int = RADIUS) -> Rows:
    """For each row the earliest kept row within `radius` bits, or -1 where there is none and the row itself is kept: int64 (N,).

    Rows are met in their order, and one that repeats an earlier kept one is not kept. So no two kept rows are near, and each
    other row is near the row named here: a chain of pictures, each near the next, is not folded into its first. Memory beside
    that of near_pairs: 16 bytes a pair of near hashes that are not equal.
    """
    first_U, unique_N = _unique(hashes_N)
    pairs = [np.stack(pair)[:, pair[0] < pair[1]] for pair in near_pairs(hashes_N[first_U], hashes_N[first_U], radius)]
    earlier_P, later_P = np.concatenate([np.empty((2, 0), np.int64), *pairs], axis=1)
    kept_U = np.arange(len(first_U))
    for pair in np.lexsort((earlier_P, later_P)):
        earlier, later = earlier_P[pair], later_P[pair]
        if kept_U[earlier] == earlier and kept_U[later] == later:
            kept_U[later] = earlier
    found_N = first_U[kept_U][unique_N]
    return np.where((hashes_N == PLAIN) | (found_N == np.arange(len(hashes_N))), -1, found_N)


def first_near(hashes_N: Hashes, others_M: Hashes, radius: int = RADIUS) -> Rows:
    """For each hash the first row of `others_M` within `radius` bits, or -1 if there is none: int64 (N,)."""
    first_U, unique_N = _unique(hashes_N)
    first_V, _ = _unique(others_M)
    found_U = np.full(len(first_U), len(others_M))
    for near_P, other_P in near_pairs(hashes_N[first_U], others_M[first_V], radius):
        np.minimum.at(found_U, near_P, first_V[other_P])
    found_N = found_U[unique_N]
    return np.where(found_N == len(others_M), -1, found_N)


def near_pairs(hashes_N: Hashes, others_M: Hashes, radius: int = RADIUS) -> Iterator[tuple[Rows, Rows]]:
    """Every pair (row of `hashes_N`, row of `others_M`) whose hashes differ in at most `radius` bits, once each, in pieces of
    two int64 (P,); a PLAIN hash is in none.

    Two hashes cut into blocks that differ in at most `radius` bits differ in at most radius // blocks in one of the blocks (the
    pigeonhole principle): so each block of a hash, with up to so many of its bits flipped, is looked up among the same block of
    the others. A million hashes against a million are half a minute's work at the default radius. Memory: some tens of bytes a
    row, and CHUNK pairs at a time (or as many as one hash has, where that is more).
    """
    rows_N, rows_M = np.flatnonzero(hashes_N != PLAIN), np.flatnonzero(others_M != PLAIN)
    sought_N, blocks = hashes_N[rows_N], _cut(radius, len(rows_M))
    for index, block in enumerate(blocks):
        order_M = rows_M[np.argsort(block.of(others_M[rows_M]), kind="stable")]
        sorted_M = others_M[order_M]
        for near_P, place_P in _alike(block.of(sought_N), block.of(sorted_M), block, radius // len(blocks)):
            differing_P = sought_N[near_P] ^ sorted_M[place_P]
            good_P = np.bitwise_count(differing_P) <= radius
            for earlier in blocks[:index]:  # where a pair is met first
                good_P &= np.bitwise_count(earlier.of(differing_P)) > radius // len(blocks)
            if good_P.any():
                yield rows_N[near_P[good_P]], order_M[place_P[good_P]]


@dataclass(frozen=True)
class _Block:
    """`width` bits of a hash from bit `start` on."""

    start: int
    width: int

    def of(self, hashes_N: Hashes) -> Hashes:
        return hashes_N >> np.uint64(self.start) & np.uint64((1 << self.width) - 1)


def _cut(radius: int, others: int) -> list[_Block]:
    """The blocks that make the fewest look-ups and comparisons, were the hashes uniform."""

    def cost(count: int) -> float:
        width = BITS // count
        return count * len(_flips(width, radius // count)) * (1 + others / (1 << width))

    count = min(range(FEWEST_BLOCKS, max(FEWEST_BLOCKS, radius + 1) + 1), key=cost)
    edges = [BITS * block // count for block in range(count + 1)]
    return [_Block(start, stop - start) for start, stop in pairwise(edges)]


def _flips(width: int, errors: int) -> list[int]:
    """What to xor a block with, to have every block that differs from it in at most `errors` bits, itself included."""
    found = [0]
    for bit in range(width):
        found += [mask | 1 << bit for mask in found if mask.bit_count() < errors]
    return found


def _alike(sought_N: Hashes, sorted_M: Hashes, block: _Block, errors: int) -> Iterator[tuple[Rows, Rows]]:
    """Every (row, place) whose blocks differ in at most `errors` bits, about CHUNK pairs at a time."""
    starts = np.searchsorted(sorted_M, np.arange((1 << block.width) + 1, dtype=np.uint64))
    for mask in _flips(block.width, errors):
        wanted_N = (sought_N ^ np.uint64(mask)).astype(np.int64)
        count_N = starts[wanted_N + 1] - starts[wanted_N]
        begin_N = np.concatenate([[0], np.cumsum(count_N)])  # of each row's pairs among all pairs; one more for their end
        shift_N = starts[wanted_N] - begin_N[:-1]
        row = 0
        while row < len(sought_N):
            stop = max(row + 1, int(np.searchsorted(begin_N, begin_N[row] + CHUNK, side="right")) - 1)
            row_P = np.repeat(np.arange(row, stop), count_N[row:stop])
            yield row_P, shift_N[row_P] + np.arange(begin_N[row], begin_N[stop])
            row = stop


def _unique(hashes_N: Hashes) -> tuple[Rows, Rows]:
    """The first row of each different hash, ascending (U,), and which of these each row's hash is (N,)."""
    _, first_U, unique_N = np.unique(hashes_N, return_index=True, return_inverse=True)
    order_U = np.argsort(first_U)
    place_U = np.empty_like(order_U)
    place_U[order_U] = np.arange(len(order_U))
    return first_U[order_U], place_U[unique_N]
