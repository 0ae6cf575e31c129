"""The next token from its logits."""

from __future__ import annotations

from typing import Any

import numpy as np

from .engine import Sampling

_COLDEST = 1e-5  # below it all chance is with one token, and exp() would overflow


class Sampler:
    """Chooses token by token; the same seed gives the same tokens, on every backend."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        seed = sampling.seed
        # NumPy takes no negative seeds, OpenAI does.
        self._random = np.random.default_rng(None if seed is None else seed % 2**64)

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken, which needs no logits on the host."""
        return self._sampling.temperature < _COLDEST

    def choose(self, logits: Any) -> int:
        """A token, by temperature and nucleus. `logits` is a vector, one a token."""
        if self.greedy:
            return int(np.argmax(logits))
        scaled = np.asarray(logits, np.float64) / self._sampling.temperature
        chances = np.exp(scaled - scaled.max())
        chances /= chances.sum()
        order = np.argsort(-chances, kind="stable")
        reached = np.cumsum(chances[order])
        # The smallest set of tokens that reaches top_p: at least one.
        nucleus = 1 + int(np.searchsorted(reached[:-1], self._sampling.top_p))
        kept = order[:nucleus]
        at = self._random.random() * reached[nucleus - 1]
        return int(kept[min(int(np.searchsorted(reached[:nucleus], at, "right")), nucleus - 1)])
