"""The bias of an entropy over few tokens, against simulation: hard choices, soft probabilities, tokens that come in pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from limoe.losses.entropy_bias import entropy_bias, hard_bias

EXPERTS, PAIRS = 8, 40000


def test_hard_choices_have_miller_and_madow_s_bias() -> None:
    rng, tokens = np.random.default_rng(0), 200
    shares_E = rng.dirichlet(np.full(EXPERTS, 5.0))
    found = entropy(rng.multinomial(tokens, shares_E, size=20000), axis=1) - entropy(shares_E)
    assert hard_bias(EXPERTS, tokens) == pytest.approx(np.mean(found), abs=4 * np.std(found) / 20000**0.5 + 2e-4)
    hard_TE = np.eye(EXPERTS)[rng.choice(EXPERTS, 20000, p=shares_E)]
    whole = entropy_bias(torch.from_numpy(hard_TE), torch.arange(20000), tokens)
    assert whole.bias == pytest.approx(hard_bias(EXPERTS, tokens), rel=0.05)
    assert whole.independent == pytest.approx(whole.bias, rel=0.05)


def pairs_of_rows(rng: np.random.Generator, pairs: int, alike: float) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of 3 to 9 rows a pair; `alike`: how much of a row's logits is its pair's."""
    lengths_B = rng.integers(3, 10, pairs)
    pair_T = np.repeat(np.arange(pairs), lengths_B)
    logits_TE = alike * rng.normal(size=(pairs, EXPERTS))[pair_T] + rng.normal(size=(len(pair_T), EXPERTS))
    probs_TE = np.exp(logits_TE)
    return probs_TE / probs_TE.sum(1, keepdims=True), pair_T


@pytest.mark.parametrize("alike", [0.0, 1.5])
def test_soft_probabilities_of_pairs_against_simulation(alike: float) -> None:
    rng, group = np.random.default_rng(1), 16
    probs_TE, pair_T = pairs_of_rows(rng, PAIRS, alike)
    whole = entropy_bias(torch.from_numpy(probs_TE), torch.from_numpy(pair_T), group)
    found = []
    for first in range(0, PAIRS, group):
        rows = slice(*np.searchsorted(pair_T, [first, first + group]))
        mean_E = probs_TE[rows].mean(0)
        found.append(-mean_E @ np.log(mean_E) - whole.entropy)
    assert whole.entropy == pytest.approx(entropy(probs_TE.mean(0)))
    assert whole.bias == pytest.approx(np.mean(found), rel=0.08)
    assert 0 > whole.independent > hard_bias(EXPERTS, group * len(pair_T) / PAIRS)
    assert (whole.bias < 2 * whole.independent) == (alike > 0), "tokens of a pair that resemble each other count for fewer"


def test_a_few_pairs_tell_what_many_would() -> None:
    rng = np.random.default_rng(2)
    few = [entropy_bias(*map(torch.from_numpy, pairs_of_rows(rng, 64, 1.0)), 16).bias for _ in range(50)]
    many = entropy_bias(*map(torch.from_numpy, pairs_of_rows(rng, 20000, 1.0)), 16).bias
    assert np.mean(few) == pytest.approx(many, rel=0.1)


def test_one_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="two pairs"):
        entropy_bias(torch.full((3, 2), 0.5), torch.zeros(3, dtype=torch.int64), 4)
