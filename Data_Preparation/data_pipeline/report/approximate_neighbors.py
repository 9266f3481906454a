"""Nearest neighbours of every row of a large dataset, found within the clusters nearest to it.

Rows are divided into about sqrt(N) clusters, the cells of an inverted file (Sivic & Zisserman, "Video Google", 2003).
Time grows with N ** 1.5 instead of N ** 2. Memory is that of the result, of the clusters that each row looks in, and of
a block of vectors.
"""

from math import isqrt

import numpy as np
import torch
from numpy.typing import NDArray

from data_pipeline.report.neighbors import Neighbors
from data_pipeline.selection.clusters import cluster
from data_pipeline.selection.vectors import VectorBlocks, VectorSource

PROBED_CLUSTERS = 32

_BLOCK_ROWS = 8192


def approximate_neighbors(
    vectors: VectorSource, count: int, probed: int = PROBED_CLUSTERS, rng: np.random.Generator | None = None
) -> Neighbors:
    """Find neighbours of every row among the rows of the clusters nearest to it; their cosines are exact.

    A row whose clusters have fewer than `count` other rows has its own number and cosine -1 in the places left.

    Args:
        vectors: finite vectors, shape (N, D), which are read by row.
        count: number of neighbours of a row; at most N - 1 are returned.
        probed: number of clusters that a row looks in.
        rng: draws the sample and the first centroids of the clusters; None for a fixed seed.
    """
    blocks = VectorBlocks(vectors, torch.device("cpu"), unit=True)
    count = max(0, min(count, len(vectors) - 1))
    rows = torch.arange(len(vectors), dtype=torch.int32)[:, None].repeat(1, count)
    cosines = torch.full((len(vectors), count), -1.0)
    if not count:
        return Neighbors(rows.numpy(), cosines.numpy())
    rng = np.random.default_rng(0) if rng is None else rng
    clusters = cluster(blocks, isqrt(len(vectors)), rng, sample_passes=5, full_passes=1)
    visitors = _visitors(blocks, torch.from_numpy(clusters.centroids), probed)
    for members, visiting in zip(clusters.members(), visitors, strict=True):
        if not len(members):
            continue
        candidates, numbers = blocks.rows(members), torch.from_numpy(members.astype(np.int32))
        for start in range(0, len(visiting), _BLOCK_ROWS):
            own = torch.from_numpy(visiting[start : start + _BLOCK_ROWS])
            similarities = blocks.rows(own.numpy()) @ candidates.T
            similarities[own[:, None] == numbers] = -torch.inf
            values, indices = similarities.topk(min(count, len(members)), dim=1)
            all_rows = torch.cat([rows[own], numbers[indices]], dim=1)
            cosines[own], order = torch.cat([cosines[own], values.clamp(max=1)], dim=1).topk(count, dim=1)
            rows[own] = all_rows.gather(1, order)
    return Neighbors(rows.numpy(), cosines.numpy())


def _visitors(blocks: VectorBlocks, centroids: torch.Tensor, probed: int) -> list[NDArray[np.int64]]:
    """Return the rows that look in each cluster, in ascending order."""
    probed = min(probed, len(centroids))
    nearest = np.empty((len(blocks), probed), np.int32)
    halves = torch.linalg.vecdot(centroids, centroids) / 2
    for block_slice, block in blocks.blocks():
        nearest[block_slice] = (block @ centroids.T - halves).topk(probed, dim=1).indices.numpy()
    order = np.argsort(nearest.ravel(), kind="stable")
    ends = np.cumsum(np.bincount(nearest.ravel(), minlength=len(centroids)))
    return [part // probed for part in np.split(order, ends[:-1])]
