"""k-center: the next row is always the one farthest from all rows chosen so far.

Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985; as a core-set: Sener & Savarese,
"Active learning for convolutional neural networks: a core-set approach", ICLR 2018.

The picks are those of the plain greedy algorithm, which compares every row with every pick as soon as it is made.
Here rows are compared with many picks at once. A distance that is out of date can only be too large: as long as the
farthest of the candidates is farther than every other row *was*, it is the next pick, and rows that are near a pick
need not be updated until the farthest rows are as near. Distances of candidates are computed in float64, those of the
other rows in float32, and a lead within the rounding error of float32 is not trusted.
"""

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from data_pipeline.selection.features import Features
from data_pipeline.selection.ranking import Ranking
from data_pipeline.selection.vectors import VectorBlocks, VectorSelectorConfig, open_vectors, squared
from data_pipeline.types import IntArray

_CANDIDATES = 1024
_UPDATE_FROM = 0.95  # fraction of the largest squared distance from which rows are updated
_SAMPLE = 1024

# Fractions of the squared distance of a row from the middle of the data.
_SAME = 1e-12  # a row this near to another is its copy
_FLOAT32 = 1e-6  # error of squared distances in float32
_FLOAT64 = 1e-13  # leads up to this are ties


class KCenterConfig(VectorSelectorConfig):
    """Settings of `kcenter`."""

    metric: Literal["euclidean", "cosine"] = "euclidean"
    """Distance between rows; cosine: 1 - cosine similarity."""
    drop_isolated: float = Field(0.0, ge=0, lt=1)
    """Fraction of the rows, the most isolated, that comes after all others: k-center prefers outliers."""


def kcenter(features: Features, rows: int, rng: np.random.Generator, config: KCenterConfig) -> Ranking:
    """Rank a random row first, then always the row farthest from those chosen; the lowest row of a tie.

    A row whose distance to a chosen row is less than a millionth of that to the middle of the data counts as its copy;
    when only copies are left, they follow in order. Values are distances at the time of the choice, the first one
    infinite. Isolated rows are those far from their nearest row in a random sample (Sugiyama & Borgwardt, 2013).

    Costs at most `rows` x N x D multiplications, in matrix products; fewer when most rows are near others.

    Raises:
        SelectionError: The embeddings are missing, or one is NaN or infinite.
    """
    vectors = open_vectors(features, config, unit=config.metric == "cosine")
    isolated = _isolated(vectors, round(config.drop_isolated * len(vectors)), rng)
    others = np.delete(np.arange(len(vectors)), isolated)
    greedy = _Greedy(vectors, int(rng.choice(others)))
    greedy.choose_among(others, rows)
    greedy.choose_among(isolated, rows)
    distances = np.array(greedy.values)
    values = distances / 2 if config.metric == "cosine" else np.sqrt(distances)
    return Ranking(np.array(greedy.picks[:rows]), values[:rows])


def _isolated(vectors: VectorBlocks, count: int, rng: np.random.Generator) -> IntArray:
    if not count:
        return np.empty(0, np.int64)
    rows = np.sort(rng.choice(len(vectors), min(_SAMPLE, len(vectors)), replace=False))
    sample, distances = vectors.rows(rows), np.empty(len(vectors), np.float32)
    for block_slice, block in vectors.blocks():
        to_sample = torch.cdist(block, sample)
        own = np.flatnonzero((rows >= block_slice.start) & (rows < block_slice.stop))
        to_sample[rows[own] - block_slice.start, own] = torch.inf  # a row is not its own neighbour
        distances[block_slice] = to_sample.amin(dim=1).cpu().numpy()
    return np.sort(np.argsort(-distances, kind="stable")[:count])


class _Greedy:
    """Picks so far, and the squared distance of every row to the nearest of them as of its last update."""

    def __init__(self, vectors: VectorBlocks, first: int) -> None:
        self.picks = [first]
        self.values = [np.inf]
        self._vectors = vectors
        self._origin = _middle(vectors)
        self._norms = np.empty(len(vectors), np.float32)
        for block_slice, block in vectors.blocks():
            self._norms[block_slice] = squared(block - self._origin).cpu().numpy()
        self._squared = np.full(len(vectors), np.inf, np.float32)
        self._nearest = np.zeros(len(vectors), np.int64)
        self._compared = np.zeros(len(vectors), np.int64)
        """Number of picks that each row was compared with."""

    def choose_among(self, rows: IntArray, count: int) -> None:
        """Add picks until there are `count` in all, or all of the given rows are chosen."""
        closed = np.ones(len(self._vectors), bool)
        closed[rows] = False
        closed[self.picks] = True
        while len(self.picks) < count and not closed.all():
            distances, level = self._updated_distances(closed)
            if not distances.max():
                copies = np.flatnonzero(~closed)[: count - len(self.picks)]
                self.picks += copies.tolist()
                self.values += [0.0] * len(copies)
                return
            previous = len(self.picks)
            self._choose(distances, level, count)
            closed[self.picks[previous:]] = True

    def _choose(self, squared_distances: NDArray[np.float32], level: float, count: int) -> None:
        """Add picks, at least one, as long as the farthest row is certain.

        Args:
            squared_distances: Shape (N,); those above `level` are up to date.
            level: Squared distance that candidates exceed.
            count: Number of picks in all.
        """
        candidates = _farthest(squared_distances, level, _CANDIDATES)
        farthest_other, largest, limit = self._others(squared_distances, candidates)
        vectors = self._exact(candidates)
        norms = squared(vectors).numpy()
        products = (vectors @ vectors.T).numpy()
        distances = squared(vectors - self._exact(self._nearest[candidates])).numpy()
        for number in range(min(count - len(self.picks), len(candidates))):
            pick = int(distances.argmax())
            farthest = float(distances[pick])
            pick = int(np.argmax(distances >= farthest - _FLOAT64 * norms[pick]))
            wins_tie = farthest == largest and candidates[pick] < farthest_other
            if number and farthest <= limit and not wins_tie:
                break
            self.picks.append(int(candidates[pick]))
            self.values.append(farthest)
            to_pick = _zero_for_copies(norms + (norms[pick] - 2 * products[pick]), norms)
            np.minimum(distances, to_pick, out=distances)
            distances[pick] = -np.inf

    def _others(self, distances: NDArray[np.float32], candidates: IntArray) -> tuple[int, float, float]:
        """The farthest row that is no candidate, its squared distance, and an upper bound of those of all such rows.

        The bound includes the rounding error of float32.
        """
        others = distances.copy()
        others[candidates] = -np.inf
        row = int(others.argmax())
        return row, float(others[row]), float((others + _FLOAT32 * self._norms).max())

    def _exact(self, rows: IntArray) -> torch.Tensor:
        return self._vectors.rows(rows).cpu().double() - self._origin.cpu().double()

    def _updated_distances(self, closed: NDArray[np.bool_]) -> tuple[NDArray[np.float32], float]:
        """Squared distances, shape (N,), and a level above which they are up to date; it is below the largest."""
        while True:
            distances = np.where(closed, -np.float32(np.inf), self._squared)
            outdated = self._compared < len(self.picks)
            level = float(distances[outdated].max(initial=-np.inf))
            threshold = _UPDATE_FROM * float(distances.max())
            if level < threshold or level < 0:
                return distances, level
            lowest = min(threshold, _lowest_of_largest(distances, _CANDIDATES))
            rows = np.flatnonzero(outdated & (distances >= lowest))
            for compared in np.unique(self._compared[rows]).tolist():
                self._compare(rows[self._compared[rows] == compared], np.array(self.picks[compared:]))

    def _compare(self, rows: IntArray, picks: IntArray) -> None:
        """Compare rows with picks that they were not compared with yet."""
        centers = self._vectors.rows(picks) - self._origin
        norms = squared(centers)
        for block_rows, block in self._vectors.blocks_of(rows):
            moved = block.sub_(self._origin)
            smallest, which = torch.addmm(norms, moved, centers.T, alpha=-2).min(dim=1)
            distances, nearest = smallest.cpu().numpy() + self._norms[block_rows], which.cpu().numpy()
            # The difference of large numbers that nearly cancel is mostly rounding error: computed directly instead.
            close = np.flatnonzero(
                (distances < self._squared[block_rows]) & (distances < 1e-3 * self._norms[block_rows])
            )
            positions, columns = (torch.from_numpy(part).to(moved.device) for part in (close, nearest[close]))
            distances[close] = squared(moved[positions] - centers[columns]).cpu().numpy()
            nearer = np.flatnonzero(distances < self._squared[block_rows])
            nearer_rows = block_rows[nearer]
            self._squared[nearer_rows] = _zero_for_copies(distances[nearer], self._norms[nearer_rows])
            self._nearest[nearer_rows] = picks[nearest[nearer]]
        self._compared[rows] = len(self.picks)


def _middle(vectors: VectorBlocks) -> torch.Tensor:
    """Median of a sample of rows. Distances do not depend on the origin, but numbers are small around this one.

    Medians are numbers of the data: where the differences of these are exact, they stay exact.
    """
    sample = np.unique(np.linspace(0, len(vectors) - 1, _SAMPLE).astype(np.int64))
    return vectors.rows(sample).median(dim=0).values


def _zero_for_copies(distances: NDArray[Any], norms: NDArray[Any]) -> NDArray[Any]:
    return np.where(distances <= _SAME * norms, 0, distances)


def _lowest_of_largest(distances: NDArray[np.float32], count: int) -> float:
    """The lowest of the `count` largest distances; 0 if there are no more rows than that."""
    return max(0.0, float(np.partition(distances, -count)[-count])) if len(distances) > count else 0.0


def _farthest(distances: NDArray[np.float32], level: float, max_rows: int) -> IntArray:
    """Rows with the largest distances above a level, in ascending order; of equal distances the lowest rows."""
    above = distances > level
    if above.sum() > max_rows:
        limit = _lowest_of_largest(distances, max_rows)
        above = distances > limit
        above[np.flatnonzero(distances == limit)[: max_rows - above.sum()]] = True
    return np.flatnonzero(above)
