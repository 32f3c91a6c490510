"""Slow, obviously correct routers, places and experts in float64, written from the papers; no tensor tricks.

Rows are lists: groups[t] is the routing group of token t (None for a padding row), modality[t] TEXT or IMAGE, probs[t] its
softmax with noise, choices[t] the experts that it asks for, best first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from reference import softmax

TEXT, IMAGE = 0, 1


def top_k(probs, k):
    """Indices of the k largest, best first, ties to the lower index."""
    return sorted(range(len(probs)), key=lambda e: (-probs[e], e))[:k]


def capacity(tokens, k, factor, experts):
    """Places of an expert in a group (or of one modality there): ceil(tokens * k * factor / experts), the factor as written."""
    return math.ceil(Fraction(tokens * k) * Fraction(str(factor)) / experts)


def members(groups, modality=None, of=None):
    """{group: its tokens in array order}, of one modality if `of` is given; a padding row has the group None."""
    found = {}
    for t, group in enumerate(groups):
        if group is not None and (of is None or modality[t] == of):
            found.setdefault(group, []).append(t)
    return found


def claim_order(tokens, priority, gates, modality, shuffle):
    """The tokens of a group in the order in which they claim places; sorted() keeps the array's order among equals."""
    rank = {
        "bpr": lambda t: -gates[t],
        "first-come": lambda t: 0,
        "shuffled": lambda t: shuffle[t],
        "image-first": lambda t: modality[t] != IMAGE,
        "text-first": lambda t: modality[t] != TEXT,
    }
    return sorted(tokens, key=rank[priority])


def place(choices, gates, groups, k, capacity_factor, experts, priority, modality=None, shuffle=None):
    """Which (token, choice) pairs find a place: token by token, every first choice before any second choice.

    choices[t]: experts of token t, best first. gates[t]: its largest gate. groups[t]: its routing group, None for a padding row.
    modality[t] and shuffle[t], a rank, are only looked at by the orders that need them.
    """
    placed = [[False] * len(row) for row in choices]
    for tokens in members(groups).values():
        room = capacity(len(tokens), k, capacity_factor, experts)
        used = [0] * experts
        for choice in range(k):
            for token in claim_order(tokens, priority, gates, modality, shuffle):
                expert = choices[token][choice]
                if used[expert] < room:
                    used[expert] += 1
                    placed[token][choice] = True
    return placed


def loss_free(probs, modality, bias_ME, k):
    """Experts of each token by probability plus the bias of its modality (arXiv 2408.15664, equation 3)."""
    return [top_k([p + b for p, b in zip(row, bias_ME[m], strict=True)], k) for row, m in zip(probs, modality, strict=True)]


def move_bias(bias_ME, asked_ME, rate, joint):
    """Towards balance (arXiv 2408.15664, algorithm 1): up where an expert is asked for less than the mean, down where more."""
    if joint:
        asked_ME = [[sum(column) for column in zip(*asked_ME, strict=True)]] * len(asked_ME)
    return [
        [b + rate * ((sum(row) > n * len(row)) - (sum(row) < n * len(row))) for b, n in zip(bias, row, strict=True)]
        for bias, row in zip(bias_ME, asked_ME, strict=True)
    ]


def uniform(groups, k, experts):
    """Choice j of the i-th token of a group: expert (i * k + j) mod E; nothing for a padding row."""
    choices = [[] for _ in groups]
    for tokens in members(groups).values():
        for i, token in enumerate(tokens):
            choices[token] = [(i * k + j) % experts for j in range(k)]
    return choices


def expert_choice(probs, groups, modality, k, capacity_factor):
    """Experts that take each token, best gate first: in each group and of each modality an expert takes its best tokens."""
    experts = len(probs[0])
    takers = [[] for _ in groups]
    for m in (TEXT, IMAGE):
        for tokens in members(groups, modality, m).values():
            quota = min(len(tokens), capacity(len(tokens), k, capacity_factor, experts))
            for expert in range(experts):
                for token in sorted(tokens, key=lambda t: -probs[t][expert])[:quota]:
                    takers[token].append(expert)
    return [sorted(taken, key=lambda e: (-row[e], e)) for taken, row in zip(takers, probs, strict=True)]


def above_threshold(probs, groups, modality, threshold_ME):
    """Experts that take each token at evaluation, best gate first."""
    takers = []
    for row, group, m in zip(probs, groups, modality, strict=True):
        taken = [e for e, p in enumerate(row) if group is not None and p >= threshold_ME[m][e]]
        takers.append(sorted(taken, key=lambda e: (-row[e], e)))
    return takers


def lowest_taken(takers, probs, groups, modality):
    """[modality][expert]: the lowest score that the expert took, mean over the groups with the modality; None if none has it."""
    found = []
    for m in (TEXT, IMAGE):
        present = members(groups, modality, m).values()
        lowest = [[min(probs[t][e] for t in tokens if e in takers[t]) for e in range(len(probs[0]))] for tokens in present]
        found.append([sum(column) / len(lowest) for column in zip(*lowest, strict=True)] if lowest else None)
    return found


def follow(threshold_E, lowest_E, decay, before):
    """The moving average after one more step, `before` steps having been averaged; None leaves it as it is."""
    if lowest_E is None:
        return threshold_E
    weight = max(1 - decay, 1 / (before + 1))
    return [(1 - weight) * old + weight * new for old, new in zip(threshold_E, lowest_E, strict=True)]


@dataclass(frozen=True)
class Rules:
    """How a layer routes; the names are those of params.yaml."""

    router: str
    k: int
    capacity_factor: float
    priority: str
    renormalise: bool
    training: bool


def choose(probs, groups, modality, rules, state_ME):
    """Experts that each token asks for, best first; state_ME: loss-free's bias or, at evaluation, expert choice's thresholds."""
    if rules.router == "expert-choice" and rules.training:
        return expert_choice(probs, groups, modality, rules.k, rules.capacity_factor)
    if rules.router == "expert-choice":
        return above_threshold(probs, groups, modality, state_ME)
    if rules.router == "uniform":
        return uniform(groups, rules.k, len(probs[0]))
    if rules.router == "loss-free":
        return loss_free(probs, modality, state_ME, rules.k)
    return [top_k(row, rules.k) for row in probs]


def gates_of(choices, probs, rules):
    """Probabilities of the chosen experts, divided by their sum if the rules say so."""
    gates = [[row[e] for e in chosen] for chosen, row in zip(choices, probs, strict=True)]
    return [[g / sum(row) for g in row] for row in gates] if rules.renormalise else gates


def placed_of(choices, probs, groups, modality, rules, shuffle=None):
    """Which choices find a place: all but those of padding rows where nothing is bounded.

    The priority of BPR is the largest probability (V-MoE, arXiv 2106.05974, section 4.1), whatever the gates are scaled to.
    """
    if not rules.training or rules.router == "expert-choice":
        return [[group is not None] * len(chosen) for chosen, group in zip(choices, groups, strict=True)]
    largest = [max((row[e] for e in chosen), default=0.0) for chosen, row in zip(choices, probs, strict=True)]
    priority = "first-come" if rules.router == "uniform" else rules.priority
    return place(choices, largest, groups, rules.k, rules.capacity_factor, len(probs[0]), priority, modality, shuffle)


def moe_layer(x_TD, router_ED, noise_TE, groups, modality, rules, state_ME, weights, shuffle=None):
    """The whole sparse layer, router included; weights: w1, b1, w2, b2, stacked over experts."""
    probs = [softmax(row) for row in x_TD @ router_ED.T + noise_TE]
    choices = choose(probs, groups, modality, rules, state_ME)
    placed = placed_of(choices, probs, groups, modality, rules, shuffle)
    return moe(x_TD, choices, gates_of(choices, probs, rules), placed, *weights)


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
