"""Chance as a function of a key: streams, permutations and uniform numbers that depend on nothing drawn before.

Axes: I indices, any number of them; what is asked for is computed, and nothing else.

`Permutation` shuffles n things without a list of them: a Feistel network (Luby and Rackoff) on pairs (high, low) of the digits of
an index in mixed radix, after Black and Rogaway's "Ciphers with arbitrary finite domains": a round adds a keyed hash of one digit
to the other, modulo that one's radix, and can be undone, so the network is a bijection whatever the hash. Its domain is at most
sqrt(n) + 1 larger than n; an index that lands outside goes through it again until it does not ("cycle walking").
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

ROUNDS = 8
ORDER, CAPTION, SHUFFLE, AUGMENT, GROUPS = range(5)  # purposes: the same seed gives each its own chance


def stream(seed: int, purpose: int, *keys: int) -> np.random.Generator:
    """The random stream of (seed, purpose, keys): independent of every other one, and of what was drawn before."""
    return np.random.default_rng([seed, purpose, *keys])


class Permutation:
    """A random permutation of 0 .. size - 1, chosen by the key; an index costs the same whatever the size."""

    def __init__(self, size: int, seed: int, purpose: int, *keys: int) -> None:
        """size: at least 1, below 2^62. The rest: the key, whole numbers from 0."""
        self.size = size
        self._high = np.uint64(math.isqrt(size - 1) + 1)
        self._low = np.uint64(-(-size // int(self._high)))
        self._keys = words(ROUNDS, seed, purpose, *keys)

    def __call__(self, index_I: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where each index (of 0 .. size - 1) goes.

        >>> sorted(Permutation(5, 0, ORDER)(np.arange(5)).tolist())
        [0, 1, 2, 3, 4]
        """
        value_I = self._network(index_I.astype(np.uint64))
        while (outside_I := value_I >= self.size).any():
            value_I[outside_I] = self._network(value_I[outside_I])
        return value_I.astype(np.int64)

    def _network(self, value_I: NDArray[np.uint64]) -> NDArray[np.uint64]:
        high_I, low_I = np.divmod(value_I, self._low)
        for even, odd in self._keys.reshape(-1, 2):
            high_I = (high_I + mix(low_I ^ even) % self._high) % self._high
            low_I = (low_I + mix(high_I ^ odd) % self._low) % self._low
        return high_I * self._low + low_I


def uniform(index_I: NDArray[np.int64], epoch_I: NDArray[np.int64], seed: int, purpose: int, *keys: int) -> NDArray[np.float64]:
    """A number uniform on [0, 1) for each (index, epoch) under the key."""
    first, second = words(2, seed, purpose, *keys)
    hash_I = mix(mix(epoch_I.astype(np.uint64) ^ first) ^ index_I.astype(np.uint64) ^ second)
    return np.ldexp((hash_I >> np.uint64(11)).astype(np.float64), -53)


def words(count: int, *key: int) -> NDArray[np.uint64]:
    """So many 64-bit words, a function of the key (with its length: a SeedSequence takes 1 and 1, 0 for the same)."""
    return np.random.SeedSequence([len(key), *key]).generate_state(count, np.uint64).astype(np.uint64)


def mix(value_I: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A 64-bit bijection, each bit of it a function of all bits: the finaliser of SplitMix64 (Steele and others, 2014)."""
    value_I = (value_I ^ (value_I >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value_I = (value_I ^ (value_I >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value_I ^ (value_I >> np.uint64(31))
