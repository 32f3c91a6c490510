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


def cosines(images, texts):
    """Products of every picture with every text, as lists."""
    return [[sum(a * b for a, b in zip(i, t, strict=True)) for t in texts] for i in images]


def contrastive_with_groups(images, texts, scale, groups):
    """Softmax both ways, where the target of a row is spread evenly over the pairs of its group."""
    logits = [[scale * x for x in row] for row in cosines(images, texts)]
    n, total = len(logits), 0.0
    for i in range(n):
        positives = [j for j in range(n) if groups[j] == groups[i]]
        row, column = softmax(logits[i]), softmax([logits[j][i] for j in range(n)])
        total -= sum(math.log(row[j]) + math.log(column[j]) for j in positives) / len(positives)
    return total / (2 * n)


def sigmoid_contrastive(images, texts, scale, bias, groups):
    """-1/B sum_ij log sigmoid(z_ij (scale * cosine + bias)), z = 1 within a group and -1 outside."""
    total = 0.0
    for i, row in enumerate(cosines(images, texts)):
        for j, x in enumerate(row):
            sign = 1 if groups[i] == groups[j] else -1
            total += math.log1p(math.exp(-sign * (scale * x + bias)))
    return total / len(images)
