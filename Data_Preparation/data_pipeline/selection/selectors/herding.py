"""Herding: rows whose mean stays near the mean of all rows.

Welling, "Herding dynamical weights to learn", ICML 2009: choose the row with the largest product with the weights,
then add the mean of all rows to the weights and subtract that row.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from data_pipeline.selection.features import Features
from data_pipeline.selection.ranking import Ranking
from data_pipeline.selection.vectors import VectorBlocks, VectorSelectorConfig, open_vectors
from data_pipeline.types import IntArray


class HerdingConfig(VectorSelectorConfig):
    """Settings of `herding`."""

    pool: int | None = Field(1024, ge=1)
    """Number of random rows among which the next few are chosen. null, or a dataset of at most this size: every choice
    looks at all rows, as in the paper. A random pool costs far less, and its mean stays as near."""
    picks_per_pool: int = Field(16, ge=1)
    """Number of rows chosen before the next pool is drawn."""


def herding(features: Features, rows: int, rng: np.random.Generator, config: HerdingConfig) -> Ranking:
    """Rank rows by herding, without replacement; values are the distances of the means after each choice.

    Costs `rows` x `pool` x D multiplications, or `rows` x N x D without a pool.

    Raises:
        SelectionError: The embeddings are missing, or one is NaN or infinite.
    """
    vectors = open_vectors(features, config)
    state = _Herding(vectors)
    if config.pool is None or len(vectors) <= config.pool:
        chosen = _choose_among_all(vectors, rows, state)
    else:
        chosen = _choose_among_pools(vectors, rows, rng, state, config.pool, config.picks_per_pool)
    return Ranking(chosen, np.array(state.deviations))


class _Herding:
    """Weights, and the distance between the mean of the chosen rows and the mean of all after each choice."""

    def __init__(self, vectors: VectorBlocks) -> None:
        self.deviations: list[float] = []
        self._mean = vectors.mean()
        self._weights: NDArray[np.float64] = self._mean.copy()
        self._device = vectors.device

    def scores(self, vectors: torch.Tensor) -> torch.Tensor:
        """Product of every row with the weights, shape (N,)."""
        return vectors @ torch.from_numpy(self._weights.astype(np.float32)).to(self._device)

    def step(self, chosen: torch.Tensor) -> None:
        """Update the weights after choosing a vector of shape (D,)."""
        self._weights += self._mean - chosen.cpu().numpy()
        # The weights are the mean plus what the sum of the chosen rows is short of.
        missing = float(np.linalg.norm(self._weights - self._mean))
        self.deviations.append(missing / (len(self.deviations) + 1))


def _choose_among_all(vectors: VectorBlocks, rows: int, state: _Herding) -> IntArray:
    chosen = np.empty(rows, np.int64)
    scores = np.empty(len(vectors), np.float32)
    for number in range(rows):
        for block_slice, block in vectors.blocks():
            scores[block_slice] = state.scores(block).cpu().numpy()
        scores[chosen[:number]] = -np.inf
        chosen[number] = scores.argmax()
        state.step(vectors.rows(chosen[number : number + 1])[0])
    return chosen


def _choose_among_pools(
    vectors: VectorBlocks, rows: int, rng: np.random.Generator, state: _Herding, size: int, picks_per_pool: int
) -> IntArray:
    chosen: list[int] = []
    remaining = np.arange(len(vectors))
    while len(chosen) < rows:
        drawn = np.sort(rng.choice(len(remaining), min(size, len(remaining)), replace=False, shuffle=False))
        pool = vectors.rows(remaining[drawn])
        picks: list[int] = []
        for _ in range(min(picks_per_pool, len(drawn), rows - len(chosen))):
            scores = state.scores(pool)
            scores[picks] = -torch.inf
            picks.append(int(scores.argmax()))
            state.step(pool[picks[-1]])
        positions = drawn[picks]
        chosen += remaining[positions].tolist()
        remaining = np.delete(remaining, positions)
    return np.array(chosen)
