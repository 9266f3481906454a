"""k-means, of any number of rows.

Lloyd, "Least squares quantization in PCM", 1982, from the start of Arthur & Vassilvitskii, "k-means++", 2007.
Most of the way is gone on a sample; the last passes, over all rows, put the centroids right.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from data_pipeline.selection.vectors import Vectors, squared
from data_pipeline.types import IntArray

_SEED_ROWS, _SEED_ROWS_PER_CLUSTER = 4096, 8
_SAMPLE_ROWS_PER_CLUSTER = 128


@dataclass(frozen=True)
class Clusters:
    """N rows in k clusters."""

    labels: IntArray
    """Shape (N,): the nearest centroid of each row."""
    distances: NDArray[np.float32]
    """Shape (N,): Euclidean distance to it."""
    centroids: NDArray[np.float32]
    """Shape (k, D)."""
    inertia: float
    """Sum of the squared distances."""

    def members(self) -> list[IntArray]:
        """The rows of every cluster, in order; some may have none."""
        order = np.argsort(self.labels, kind="stable")
        return np.split(order, np.cumsum(np.bincount(self.labels, minlength=len(self.centroids)))[:-1])


def cluster(
    vectors: Vectors, k: int, rng: np.random.Generator, *, sample_passes: int = 10, full_passes: int = 3
) -> Clusters:
    """As many clusters as asked for, or as there are rows.

    A cluster that loses all its rows starts anew at the row farthest off.

    Args:
        vectors: Shape (N, D).
        k: Clusters wanted, 1 or more.
        rng: Chooses the sample and the first centroids.
        sample_passes: Steps over 128 rows a cluster, drawn at random.
        full_passes: Steps over all rows.
    """
    k = min(k, len(vectors))
    sample = _sample(vectors, _SAMPLE_ROWS_PER_CLUSTER * k, rng)
    seeds = _sample(sample, max(_SEED_ROWS, _SEED_ROWS_PER_CLUSTER * k), rng)
    centroids = _plus_plus(seeds.rows(np.arange(len(seeds))), k, rng)
    centroids = _improve(sample, centroids, sample_passes)
    centroids = _improve(vectors, centroids, full_passes)
    norms = vectors.squared_norms()
    found = _Pass(vectors, norms, centroids)
    for place, block in vectors.blocks():
        found.assign(place, block)
    inertia = float(found.squared.sum(dtype=np.float64))
    return Clusters(found.labels, np.sqrt(found.squared), centroids.cpu().numpy(), inertia)


def bounded_parts(vectors: Vectors, most: int, rng: np.random.Generator) -> list[IntArray]:
    """All rows in parts of at most `most`: clusters, the large ones cut at random. Every part has its rows in order."""
    if len(vectors) <= most:
        return [np.arange(len(vectors))]
    parts = []
    for members in cluster(vectors, -(-2 * len(vectors) // most), rng).members():
        pieces = -(-len(members) // most)
        if pieces == 1:
            parts.append(members)
        elif pieces:
            parts += [np.sort(piece) for piece in np.array_split(rng.permutation(members), pieces)]
    return parts


def _sample(vectors: Vectors, count: int, rng: np.random.Generator) -> Vectors:
    if len(vectors) <= count:
        return vectors
    rows = np.sort(rng.choice(len(vectors), count, replace=False))
    return Vectors(vectors.rows(rows), vectors.device)


def _plus_plus(vectors: torch.Tensor, k: int, rng: np.random.Generator) -> torch.Tensor:
    """As many rows, each the best of a few drawn with the odds of their squared distance to those before."""
    norms, tries = squared(vectors), 2 + int(np.log(k))
    chosen = rng.integers(len(vectors), size=1)
    distances = _from_each(vectors, norms, chosen)[0]
    while len(chosen) < k:
        distances[torch.from_numpy(chosen).to(distances.device)] = 0
        heights = distances.cpu().double().cumsum(0).numpy()
        drawn = np.searchsorted(heights, rng.random(tries) * heights[-1], side="right")
        drawn = np.minimum(drawn, len(vectors) - 1)  # where all are copies of those chosen
        found = torch.minimum(_from_each(vectors, norms, drawn), distances)
        best = int(found.sum(dim=1).argmin())
        chosen, distances = np.append(chosen, drawn[best]), found[best]
    return vectors[torch.from_numpy(chosen).to(vectors.device)]


def _from_each(vectors: torch.Tensor, norms: torch.Tensor, rows: IntArray) -> torch.Tensor:
    """Squared distances from these rows to all, shape (rows, N)."""
    index = torch.from_numpy(rows).to(vectors.device)
    return (norms[index, None] + norms - 2 * (vectors[index] @ vectors.T)).clamp_(min=0)


class _Pass:
    """The nearest of some centroids for every row."""

    def __init__(self, vectors: Vectors, norms: NDArray[np.float32], centroids: torch.Tensor) -> None:
        self.labels = np.empty(len(vectors), np.int64)
        self.squared = np.empty(len(vectors), np.float32)
        self._norms = norms
        self._centroids = centroids
        self._lengths = squared(centroids)

    def assign(self, place: slice, block: torch.Tensor) -> torch.Tensor:
        """Find and return the labels of some rows."""
        found, labels = torch.addmm(self._lengths, block, self._centroids.T, alpha=-2).min(dim=1)
        self.labels[place] = labels.cpu().numpy()
        self.squared[place] = np.maximum(found.cpu().numpy() + self._norms[place], 0)
        return labels


def _improve(vectors: Vectors, centroids: torch.Tensor, passes: int) -> torch.Tensor:
    """Lloyd's steps, fewer where nothing moves any more."""
    norms, before = vectors.squared_norms(), None
    for _ in range(passes):
        found, sums = _Pass(vectors, norms, centroids), np.zeros(centroids.shape)
        for place, block in vectors.blocks():
            labels = found.assign(place, block)
            sums += torch.zeros_like(centroids).index_add_(0, labels, block).cpu().numpy()
        if before is not None and np.array_equal(found.labels, before):
            break
        before = found.labels
        counts = np.bincount(found.labels, minlength=len(centroids))
        means = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
        if len(empty := np.flatnonzero(counts == 0)):
            farthest = np.argsort(-found.squared, kind="stable")[: len(empty)]
            means[empty] = vectors.rows(farthest).cpu().numpy()
        centroids = torch.from_numpy(means).to(centroids.device)
    return centroids
