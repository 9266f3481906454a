"""k-means for any number of rows.

Lloyd, "Least squares quantization in PCM", 1982, initialised as in Arthur & Vassilvitskii, "k-means++", 2007. Most
passes are over a sample; the last ones, over all rows, refine the centroids.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from data_pipeline.selection.vectors import VectorBlocks, squared
from data_pipeline.types import IntArray

_SEED_ROWS, _SEED_ROWS_PER_CLUSTER = 4096, 8
_SAMPLE_ROWS_PER_CLUSTER = 128


@dataclass(frozen=True)
class Clusters:
    """Clustering of N rows into k clusters."""

    labels: IntArray
    """Shape (N,), nearest centroid of each row."""
    distances: NDArray[np.float32]
    """Shape (N,), Euclidean distance of each row to that centroid."""
    centroids: NDArray[np.float32]
    """Shape (k, D), means of the clusters."""
    inertia: float
    """Sum of the squared distances."""

    def members(self) -> list[IntArray]:
        """Rows of every cluster in ascending order; a cluster may be empty."""
        order = np.argsort(self.labels, kind="stable")
        return np.split(order, np.cumsum(np.bincount(self.labels, minlength=len(self.centroids)))[:-1])

    def by_distance(self, members: IntArray, first: Literal["nearest", "farthest"]) -> IntArray:
        """Rows of a cluster by distance to its centroid; ties stay in order."""
        sign = 1 if first == "nearest" else -1
        return members[np.argsort(sign * self.distances[members], kind="stable")]


def cluster(
    vectors: VectorBlocks, k: int, rng: np.random.Generator, *, sample_passes: int = 10, full_passes: int = 3
) -> Clusters:
    """Cluster rows into k clusters, or as many as there are rows.

    A cluster that loses all its rows restarts at the row farthest from its centroid.

    Args:
        vectors: Shape (N, D).
        k: Number of clusters, at least 1.
        rng: Draws the sample and the first centroids.
        sample_passes: Passes over 128 random rows per cluster.
        full_passes: Passes over all rows.
    """
    k = min(k, len(vectors))
    sample = _sample(vectors, _SAMPLE_ROWS_PER_CLUSTER * k, rng)
    seeds = _sample(sample, max(_SEED_ROWS, _SEED_ROWS_PER_CLUSTER * k), rng)
    centroids = _choose_seeds(seeds.rows(np.arange(len(seeds))), k, rng)
    centroids = _improve(sample, centroids, sample_passes)
    centroids = _improve(vectors, centroids, full_passes)
    norms = vectors.squared_norms()
    assignment = _Assignment(vectors, norms, centroids)
    for block_slice, block in vectors.blocks():
        assignment.assign(block_slice, block)
    inertia = float(assignment.squared.sum(dtype=np.float64))
    return Clusters(assignment.labels, np.sqrt(assignment.squared), centroids.cpu().numpy(), inertia)


def bounded_parts(vectors: VectorBlocks, max_rows: int, rng: np.random.Generator) -> list[IntArray]:
    """Divide all rows into parts of at most `max_rows`, in ascending order: clusters, large ones split at random."""
    if len(vectors) <= max_rows:
        return [np.arange(len(vectors))]
    parts = []
    for members in cluster(vectors, -(-2 * len(vectors) // max_rows), rng).members():
        pieces = -(-len(members) // max_rows)
        if pieces == 1:
            parts.append(members)
        elif pieces:
            parts += [np.sort(piece) for piece in np.array_split(rng.permutation(members), pieces)]
    return parts


def _sample(vectors: VectorBlocks, count: int, rng: np.random.Generator) -> VectorBlocks:
    if len(vectors) <= count:
        return vectors
    rows = np.sort(rng.choice(len(vectors), count, replace=False))
    return VectorBlocks(vectors.rows(rows), vectors.device)


def _choose_seeds(vectors: torch.Tensor, k: int, rng: np.random.Generator) -> torch.Tensor:
    """Choose k rows, each the best of a few drawn with odds proportional to squared distance to those so far."""
    norms, tries = squared(vectors), 2 + int(np.log(k))
    chosen = rng.integers(len(vectors), size=1)
    distances = _distances_from(vectors, norms, chosen)[0]
    while len(chosen) < k:
        distances[torch.from_numpy(chosen).to(distances.device)] = 0
        heights = distances.cpu().double().cumsum(0).numpy()
        drawn = np.searchsorted(heights, rng.random(tries) * heights[-1], side="right")
        drawn = np.minimum(drawn, len(vectors) - 1)  # all rows may be copies of the seeds
        candidates = torch.minimum(_distances_from(vectors, norms, drawn), distances)
        best = int(candidates.sum(dim=1).argmin())
        chosen, distances = np.append(chosen, drawn[best]), candidates[best]
    return vectors[torch.from_numpy(chosen).to(vectors.device)]


def _distances_from(vectors: torch.Tensor, norms: torch.Tensor, rows: IntArray) -> torch.Tensor:
    """Squared distances from the given rows to all rows, shape (K, N)."""
    index = torch.from_numpy(rows).to(vectors.device)
    return (norms[index, None] + norms - 2 * (vectors[index] @ vectors.T)).clamp_(min=0)


class _Assignment:
    """Nearest centroid of every row, filled block by block."""

    def __init__(self, vectors: VectorBlocks, norms: NDArray[np.float32], centroids: torch.Tensor) -> None:
        self.labels = np.empty(len(vectors), np.int64)
        self.squared = np.empty(len(vectors), np.float32)
        self._norms = norms
        self._centroids = centroids
        self._centroid_norms = squared(centroids)

    def assign(self, block_slice: slice, block: torch.Tensor) -> torch.Tensor:
        """Record and return the labels of a block of rows."""
        distances, labels = torch.addmm(self._centroid_norms, block, self._centroids.T, alpha=-2).min(dim=1)
        self.labels[block_slice] = labels.cpu().numpy()
        self.squared[block_slice] = np.maximum(distances.cpu().numpy() + self._norms[block_slice], 0)
        return labels


def _improve(vectors: VectorBlocks, centroids: torch.Tensor, passes: int) -> torch.Tensor:
    """Centroids after passes of Lloyd's algorithm, fewer if the labels converge."""
    norms, previous = vectors.squared_norms(), None
    for _ in range(passes):
        assignment, sums = _Assignment(vectors, norms, centroids), np.zeros(centroids.shape)
        for block_slice, block in vectors.blocks():
            labels = assignment.assign(block_slice, block)
            sums += torch.zeros_like(centroids).index_add_(0, labels, block).cpu().numpy()
        if previous is not None and np.array_equal(assignment.labels, previous):
            break
        previous = assignment.labels
        counts = np.bincount(assignment.labels, minlength=len(centroids))
        means = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
        if len(empty := np.flatnonzero(counts == 0)):
            farthest = np.argsort(-assignment.squared, kind="stable")[: len(empty)]
            means[empty] = vectors.rows(farthest).cpu().numpy()
        centroids = torch.from_numpy(means).to(centroids.device)
    return centroids
