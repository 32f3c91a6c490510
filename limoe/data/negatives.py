"""False negatives of the contrastive loss: captions of a batch that say the same, or nearly.

Axes: P drawn pairs, V different tokens among their captions, D draws, S sources.

Equal captions are counted in closed form (limoe.data.statistics.equal_pairs). Nearly equal ones, here, are different captions
whose sets of tokens overlap by `ALIKE` at least (Jaccard: shared tokens over all tokens of the two). What a batch holds of them
is counted in drawn batches: exact for each, with memory bounded by `MOST` pairs however large the set or the batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray

from limoe.data.mixture import mixture_counts
from limoe.data.statistics import Rows, equal_pairs

ALIKE = 0.8  # of two captions of ten tokens each, one differs
MOST = 1024  # pairs that are compared with each other at a time; of a larger batch a sample stands for it
DRAWS = 16  # batches
SEED = 0


@dataclass(frozen=True)
class Negatives:
    """Expected in a batch of `batch` pairs. equal: pairs of equal captions if rows were drawn blindly (the sampler keeps these
    apart). alike: pairs of different captions that are nearly equal; error: standard error of that mean."""

    batch: int
    equal: float
    alike: float
    error: float

    @classmethod
    def of(cls, rows: Rows, shares: Mapping[str, float], batch: int) -> Negatives:
        """Of these rows, their sources drawn by `shares`; a source with fewer rows than its part gives all it has."""
        parts = {name: rows.only(name) for name in shares}
        drawn = [min(batch * share, len(parts[name])) for name, share in shares.items()]
        equal = equal_pairs([part.folded_RK for part in parts.values()], drawn)
        sample, rng = min(batch, MOST), np.random.default_rng(SEED)
        scale = batch * (batch - 1) / (sample * (sample - 1))
        rows_of = list(mixture_counts(shares, batch).values())
        draws_DS = rng.multivariate_hypergeometric(rows_of, sample, DRAWS) if sample < batch else [rows_of] * DRAWS
        counts = [scale * _alike_in_a_draw(parts.values(), draw_S, rng) for draw_S in draws_DS]
        return cls(batch, equal, fmean(counts), stdev(counts) / DRAWS**0.5)


def _alike_in_a_draw(parts_S: Iterable[Rows], wanted_S: Iterable[int], rng: np.random.Generator) -> int:
    captions: list[Sequence[int]] = []
    for part, wanted in zip(parts_S, wanted_S, strict=True):
        rows = rng.permutation(len(part))[:wanted].tolist()
        captions += [ids_K[int(rng.integers(len(ids_K)))] for ids_K in (part.ids_RK[row] for row in rows)]
    return alike_pairs(captions)


def alike_pairs(captions: Sequence[Sequence[int]]) -> int:
    """Pairs of captions (token ids, the last one end of text) that differ, and whose token sets have a Jaccard index >= ALIKE.

    >>> alike_pairs([[5, 6, 7, 8, 9, 3], [9, 8, 7, 6, 5, 3], [5, 6, 7, 8, 3]])  # 5 of 5 tokens, and 4 of 5 twice
    3
    """
    sets = [set(ids[:-1]) for ids in captions]
    column = {token: place for place, token in enumerate(sorted(set(chain.from_iterable(sets))))}
    has_PV = np.zeros((len(sets), len(column)), np.float32)
    for place, tokens in enumerate(sets):
        has_PV[place, [column[token] for token in tokens]] = 1
    shared_PP: NDArray[np.float32] = has_PV @ has_PV.T
    sizes_P = has_PV.sum(1)
    either_PP = sizes_P[:, None] + sizes_P - shared_PP
    alike = np.argwhere(np.triu((shared_PP >= ALIKE * either_PP) & (either_PP > 0), k=1))
    return sum(list(captions[one]) != list(captions[other]) for one, other in alike)
