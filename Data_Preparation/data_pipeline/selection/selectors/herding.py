"""Herding: rows whose mean stays near the mean of all.

Welling, "Herding dynamical weights to learn", ICML 2009: choose the row with the largest product with the weights,
then add the mean of all rows to the weights and subtract that row.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from data_pipeline.selection.features import Features
from data_pipeline.selection.ranking import Ranking
from data_pipeline.selection.vectors import Vectors, VectorSelectorConfig, open_vectors
from data_pipeline.types import IntArray


class HerdingConfig(VectorSelectorConfig):
    """How many rows each choice looks at."""

    pool: int | None = Field(1024, ge=1)
    """Rows, drawn at random, among which the next few are chosen; no more rows than this, or none: every choice
    looks at all of them, as in the paper. A random pool costs far less, and its mean stays as near."""
    picks_per_pool: int = Field(16, ge=1)
    """Rows chosen before the next pool is drawn."""


def herding(features: Features, rows: int, rng: np.random.Generator, config: HerdingConfig) -> Ranking:
    """Rows by herding, without replacement; the values are the distances of the means after each choice.

    Costs `rows` x `pool` x D multiplications, or `rows` x N x D without a pool.

    Raises:
        SelectionError: there are no embeddings, or one is NaN or infinite.
    """
    vectors = open_vectors(features, config)
    walk = _Walk(vectors)
    if config.pool is None or len(vectors) <= config.pool:
        picks = _among_all(vectors, rows, walk)
    else:
        picks = _among_pools(vectors, rows, rng, walk, config.pool, config.picks_per_pool)
    return Ranking(picks, np.array(walk.deviations))


class _Walk:
    """The weights, and how far the mean of the picks was from the mean of all."""

    def __init__(self, vectors: Vectors) -> None:
        self.deviations: list[float] = []
        self._mean = vectors.mean()
        self._weights: NDArray[np.float64] = self._mean.copy()
        self._device = vectors.device

    def scores(self, vectors: torch.Tensor) -> torch.Tensor:
        """Product of every row with the weights, shape (N,)."""
        return vectors @ torch.from_numpy(self._weights.astype(np.float32)).to(self._device)

    def step(self, chosen: torch.Tensor) -> None:
        """Choose a vector."""
        self._weights += self._mean - chosen.cpu().numpy()
        # The weights are the mean plus all that the sum of the picks lacks.
        missing = float(np.linalg.norm(self._weights - self._mean))
        self.deviations.append(missing / (len(self.deviations) + 1))


def _among_all(vectors: Vectors, rows: int, walk: _Walk) -> IntArray:
    picks = np.empty(rows, np.int64)
    scores = np.empty(len(vectors), np.float32)
    for number in range(rows):
        for place, block in vectors.blocks():
            scores[place] = walk.scores(block).cpu().numpy()
        scores[picks[:number]] = -np.inf
        picks[number] = scores.argmax()
        walk.step(vectors.rows(picks[number : number + 1])[0])
    return picks


def _among_pools(
    vectors: Vectors, rows: int, rng: np.random.Generator, walk: _Walk, size: int, picks_per_pool: int
) -> IntArray:
    picks: list[int] = []
    left = np.arange(len(vectors))
    while len(picks) < rows:
        drawn = np.sort(rng.choice(len(left), min(size, len(left)), replace=False, shuffle=False))
        pool = vectors.rows(left[drawn])
        places: list[int] = []
        for _ in range(min(picks_per_pool, len(drawn), rows - len(picks))):
            scores = walk.scores(pool)
            scores[places] = -torch.inf
            places.append(int(scores.argmax()))
            walk.step(pool[places[-1]])
        chosen = drawn[places]
        picks += left[chosen].tolist()
        left = np.delete(left, chosen)
    return np.array(picks)
