"""Slow, obviously correct versions in float64, written from the formulas of the paper; no tensor tricks."""

from __future__ import annotations

import math

import numpy as np


def softmax(logits):
    """Of one row."""
    top = max(logits)
    exponentials = [math.exp(x - top) for x in logits]
    return [x / sum(exponentials) for x in exponentials]


def entropy(probs):
    """In nats, with 0 log 0 = 0."""
    return -sum(p * math.log(p) for p in probs if p > 0)


def top_k(probs, k):
    """Indices of the k largest, best first, ties to the lower index."""
    return sorted(range(len(probs)), key=lambda e: (-probs[e], e))[:k]


def place(choices, gates, groups, k, capacity_factor, experts, priority):
    """Which (token, choice) pairs find a place: token by token, every first choice before any second choice.

    choices[t]: experts of token t, best first. gates[t]: its largest gate. groups[t]: its routing group.
    """
    placed = [[False] * k for _ in choices]
    for group in sorted(set(groups)):
        members = [t for t in range(len(choices)) if groups[t] == group]
        capacity = math.ceil(len(members) * k * capacity_factor / experts)
        queue = sorted(members, key=lambda t: -gates[t]) if priority == "bpr" else members
        used = [0] * experts
        for choice in range(k):
            for token in queue:
                expert = choices[token][choice]
                if used[expert] < capacity:
                    used[expert] += 1
                    placed[token][choice] = True
    return placed


def gelu(x):
    """The exact one."""
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def moe(x_TD, choices, gates_TK, placed, w1, b1, w2, b2):
    """Sum over placed choices of gate times expert MLP; nothing for a dropped token."""
    out = np.zeros_like(x_TD)
    for t, row in enumerate(x_TD):
        for j, expert in enumerate(choices[t]):
            if placed[t][j]:
                hidden = gelu(row @ w1[expert] + b1[expert])
                out[t] += gates_TK[t][j] * (hidden @ w2[expert] + b2[expert])
    return out


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
