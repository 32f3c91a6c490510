"""Figures of a routing: load, specialists, confidence, and what training would drop.

Axes: T tokens, L MoE layers, M modalities (text, image), E experts, P patches, S places in a caption, B bins of confidence.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from limoe.evals.routing.routed import Routed
from limoe.model.tokens import MODALITIES, TEXT

BINS = 20  # of the confidence, 0 to 1
SPECIALIST = 0.9  # share of one modality, both weighing the same, from which an expert is said to be that modality's
IDLE = 0.01  # of a fair share of either modality, below which an expert is said to be idle
Floats = NDArray[np.float64]


def load(routed: Routed, counted_LTE: NDArray[np.bool_]) -> Floats:
    """float64 (L, M, E): how many of the counted choices of each modality fell on each expert."""
    return np.stack([counted_LTE[:, routed.of(m)].sum(1) for m in range(len(MODALITIES))], axis=1).astype(np.float64)


def shares(load_LME: Floats) -> Floats:
    """(L, M, E): of a modality's choices, each expert's; zeros where a modality made none."""
    return np.asarray(load_LME / np.maximum(load_LME.sum(-1, keepdims=True), 1))


def text_share(load_LME: Floats) -> Floats:
    """(L, E): how far an expert is text's: its share of text's choices over that plus its share of images'. NaN if it has none.

    Both modalities weigh the same, or every expert would be an image expert for there being more patches than words.

    >>> text_share(np.array([[[3.0, 1.0], [10.0, 30.0]]])).round(2).tolist()
    [[0.75, 0.25]]
    """
    share_LME = shares(load_LME)
    both_LE = share_LME.sum(1)
    return np.where(both_LE > 0, share_LME[:, TEXT] / np.where(both_LE > 0, both_LE, 1), np.nan)


def kinds(load_LME: Floats) -> list[list[str]]:
    """For each layer and expert: `text`, `image`, `mixed`, or `idle` (less than IDLE of a fair share of either modality)."""
    fair = 1 / load_LME.shape[-1]
    idle_LE = (shares(load_LME) < IDLE * fair).all(1)
    return [
        ["idle" if idle else _kind(share) for share, idle in zip(share_E, idle_E, strict=True)]
        for share_E, idle_E in zip(text_share(load_LME).tolist(), idle_LE.tolist(), strict=True)
    ]


def _kind(text: float) -> str:
    if text >= SPECIALIST:
        return "text"
    return "image" if text <= 1 - SPECIALIST else "mixed"


def effective(load_LME: Floats) -> Floats:
    """(L, M): effective experts, exp(entropy of the shares)."""
    share_LME = shares(load_LME)
    return np.asarray(np.exp(-(share_LME * np.log(np.where(share_LME > 0, share_LME, 1))).sum(-1)))


def confidence(routed: Routed) -> NDArray[np.float32]:
    """(L, T): the largest clean probability of each token."""
    return np.asarray(routed.probs_LTE.max(-1))


def histogram(confidence_LT: NDArray[np.float32], rows_T: NDArray[np.bool_]) -> Floats:
    """(L, B): share of these tokens in each of BINS bins of equal width; 1 counts to the last."""
    bins_LT = np.minimum((confidence_LT[:, rows_T] * BINS).astype(np.int64), BINS - 1)
    return np.stack([np.bincount(bins_T, minlength=BINS) / max(1, len(bins_T)) for bins_T in bins_LT])


def placed(routed: Routed) -> Floats:
    """(L, M): share of the choices in training that found room; 1 where a modality made none."""
    asked_LM, placed_LM = load(routed, routed.asked_LTE).sum(-1), load(routed, routed.placed_LTE).sum(-1)
    return np.where(asked_LM > 0, placed_LM / np.maximum(asked_LM, 1), 1.0)


def lost(routed: Routed) -> NDArray[np.bool_]:
    """(L, T): whether training would let no expert see the token."""
    return np.asarray(~routed.placed_LTE.any(-1))


def lost_by_position(routed: Routed, modality: int) -> tuple[Floats, NDArray[np.int64]]:
    """((L, P or S): share of a modality's tokens at each place that no expert sees; (P or S,): how many tokens there are)."""
    rows_T = routed.of(modality)
    position_T = routed.position_T[rows_T]
    count = np.bincount(position_T)
    sums = [np.bincount(position_T, weights=lost_T, minlength=len(count)) for lost_T in lost(routed)[:, rows_T].astype(float)]
    return np.stack(sums) / np.maximum(count, 1), count
