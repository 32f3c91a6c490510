"""Slow, obviously correct versions in float64, written from the formulas of the paper; no tensor tricks.

The losses are here; routers, places and experts in reference_routing.py.
"""

from __future__ import annotations

import math


def softmax(logits):
    """Of one row."""
    top = max(logits)
    exponentials = [math.exp(x - top) for x in logits]
    return [x / sum(exponentials) for x in exponentials]


def entropy(probs):
    """In nats, with 0 log 0 = 0."""
    return -sum(p * math.log(p) for p in probs if p > 0)


def squared_variation(values):
    """(std / mean)^2 with the population std."""
    mean = sum(values) / len(values)
    return sum((v - mean) ** 2 for v in values) / len(values) / mean**2


def importance(probs):
    """Of one group."""
    return squared_variation([sum(row[e] for row in probs) for e in range(len(probs[0]))])


def load(logits, noisy, k, sigma):
    """Of one group, from the normal distribution function."""
    experts = range(len(logits[0]))
    chances = []
    for clean, rough in zip(logits, noisy, strict=True):
        threshold = sorted(rough, reverse=True)[k - 1]
        chances.append([1 - 0.5 * (1 + math.erf((threshold - clean[e]) / sigma / math.sqrt(2))) for e in experts])
    return squared_variation([sum(row[e] for row in chances) / len(chances) for e in experts])


def z_loss(logits):
    """Of one group."""
    return sum(math.log(sum(math.exp(x) for x in row)) ** 2 for row in logits) / len(logits)


def local_entropy(probs):
    """Of one group and modality."""
    return sum(entropy(row) for row in probs) / len(probs)


def global_entropy(probs, tau):
    """Of one group and modality."""
    marginal = [sum(row[e] for row in probs) / len(probs) for e in range(len(probs[0]))]
    return max(0.0, tau - entropy(marginal))


def contrastive(images, texts, scale):
    """Mean of the two cross entropies, pair by pair."""
    logits = [[scale * sum(a * b for a, b in zip(i, t, strict=True)) for t in texts] for i in images]
    n = len(logits)
    rows = sum(-math.log(softmax(logits[i])[i]) for i in range(n)) / n
    columns = sum(-math.log(softmax([logits[j][i] for j in range(n)])[i]) for i in range(n)) / n
    return (rows + columns) / 2
