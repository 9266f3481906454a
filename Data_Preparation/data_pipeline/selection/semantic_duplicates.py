"""Rows whose vectors are nearly those of other rows, within one set or between two.

Abbas et al., "SemDeDup: data-efficient learning at web-scale through semantic deduplication", 2023.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from data_pipeline.selection.clusters import cluster
from data_pipeline.selection.vectors import VectorBlocks
from data_pipeline.types import IntArray

_BLOCK = 1024
_PART_NUMBERS = 2**24  # of the other set that are held in memory at once: 64 MiB


@dataclass(frozen=True)
class SimilarRows:
    """K rows, each with the row that it is similar to."""

    rows: IntArray
    """Shape (K,), rows that are similar to another row."""
    similar_to: IntArray
    """Shape (K,), the most similar of the rows that they were compared with, the first of equals."""
    cosines: NDArray[np.float32]
    """Shape (K,), cosines of both."""

    def sorted(self) -> "SimilarRows":
        """Return the same rows in ascending order."""
        order = np.argsort(self.rows, kind="stable")
        return SimilarRows(self.rows[order], self.similar_to[order], self.cosines[order])


def semantic_duplicates(
    vectors: VectorBlocks,
    among: IntArray,
    threshold: float,
    rng: np.random.Generator,
    *,
    clusters: int,
    keep: Literal["farthest", "nearest", "first"],
) -> SimilarRows:
    """Find rows with a cosine above a threshold to a row of their cluster that is retained.

    The rows of a cluster are looked at in the order of `keep`; a row is retained unless its cosine to a row retained
    before it is above the threshold. A row of zeros is no duplicate.

    Memory: 40 bytes for every row, and the sample for the clustering: 128 vectors for every cluster.

    Args:
        vectors: shape (N, D), of unit length.
        among: rows that are compared, ascending.
        threshold: cosine.
        rng: draws the sample and the first centroids.
        clusters: number of clusters; 1 compares all pairs.
        keep: order within a cluster: by distance to the centroid, or as they are.

    Returns:
        The duplicates in ascending order, each with the retained row that is most similar.
    """
    groups: Iterator[IntArray] = iter([among])
    if len(among) and (clusters > 1 or keep != "first"):
        clustering = cluster(vectors, clusters, rng)
        is_among = np.zeros(len(vectors), np.bool_)
        is_among[among] = True
        members = (group[is_among[group]] for group in clustering.members())
        groups = (group if keep == "first" else clustering.by_distance(group, keep) for group in members)
    similar_rows = [find_duplicates(vectors, group, threshold)[1] for group in groups]
    return _joined(similar_rows).sorted()


def find_duplicates(vectors: VectorBlocks, rows: IntArray, threshold: float) -> tuple[IntArray, SimilarRows]:
    """Divide rows into those that are retained and their duplicates.

    Args:
        vectors: shape (N, D), of unit length.
        rows: rows in the order in which they are looked at; the first is retained.
        threshold: cosine above which a row is a duplicate of a row that was retained before it.

    Returns:
        The retained rows in order, and the duplicates, each with the most similar row retained before it.
    """
    retained = rows[:0]
    similar_rows = []
    for start in range(0, len(rows), _BLOCK):
        block_rows = rows[start : start + _BLOCK]
        block = vectors.rows(block_rows)
        best, nearest = _most_similar(vectors, block, retained)
        cosines = block @ block.T
        is_similar = torch.triu(cosines > threshold, diagonal=1).cpu().numpy()
        duplicates = _duplicates_in_block(is_similar, best > threshold)
        if duplicates.any():
            # Of the rows before it in the block, a duplicate is compared with those that are retained.
            earlier = torch.triu(cosines, diagonal=1).cpu().numpy()
            earlier[duplicates] = -np.inf
            earlier[np.tril_indices(len(block_rows))] = -np.inf
            closer = earlier.max(axis=0) > best
            nearest[closer] = block_rows[earlier.argmax(axis=0)][closer]
            best[closer] = earlier.max(axis=0)[closer]
            similar_rows.append(SimilarRows(block_rows[duplicates], nearest[duplicates], best[duplicates]))
        retained = np.concatenate([retained, block_rows[~duplicates]])
    return retained, _joined(similar_rows)


def find_copies(vectors: VectorBlocks, rows: IntArray, others: VectorBlocks, threshold: float) -> SimilarRows:
    """Find rows whose cosine to a vector of another set is at or above a threshold; every pair is compared.

    Memory: 12 bytes for every row, and 64 MiB.

    Args:
        vectors: shape (N, D), of unit length.
        rows: rows that are compared, ascending.
        others: shape (M, D), of unit length.
        threshold: cosine.

    Returns:
        The rows, with `similar_to` being rows of `others`.
    """
    best, nearest = np.full(len(rows), -np.inf, np.float32), np.zeros(len(rows), np.int64)
    part_rows = max(1, _PART_NUMBERS // others.dim)
    for first in range(0, len(others), part_rows):
        part = others.rows(np.arange(first, min(first + part_rows, len(others))))
        for start in range(0, len(rows), _BLOCK):
            block_slice = slice(start, start + _BLOCK)
            values, indices = (vectors.rows(rows[block_slice]) @ part.T).max(dim=1)
            closer = values.cpu().numpy() > best[block_slice]
            best[block_slice][closer] = values.cpu().numpy()[closer]
            nearest[block_slice][closer] = first + indices.cpu().numpy()[closer]
    chosen = best >= threshold
    return SimilarRows(rows[chosen], nearest[chosen], best[chosen])


def _most_similar(
    vectors: VectorBlocks, block: torch.Tensor, retained: IntArray
) -> tuple[NDArray[np.float32], IntArray]:
    """Cosine of every row of a block to the most similar retained row, and that row, shapes (B,)."""
    best, nearest = np.full(len(block), -np.inf, np.float32), np.zeros(len(block), np.int64)
    for first in range(0, len(retained), _BLOCK):
        retained_block = retained[first : first + _BLOCK]
        values, indices = (block @ vectors.rows(retained_block).T).max(dim=1)
        closer = values.cpu().numpy() > best
        best[closer], nearest[closer] = values.cpu().numpy()[closer], retained_block[indices.cpu().numpy()][closer]
    return best, nearest


def _duplicates_in_block(similar: NDArray[np.bool_], duplicates: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Duplicates among the rows of a block.

    Args:
        similar: Shape (B, B), whether a row is similar to a later one.
        duplicates: Shape (B,), duplicates of rows in earlier blocks.

    Returns:
        Shape (B,).
    """
    for row in np.flatnonzero(similar.any(axis=1)):
        if not duplicates[row]:
            duplicates = duplicates | similar[row]
    return duplicates


def _joined(parts: list[SimilarRows]) -> SimilarRows:
    return SimilarRows(
        np.concatenate([np.zeros(0, np.int64), *(part.rows for part in parts)]),
        np.concatenate([np.zeros(0, np.int64), *(part.similar_to for part in parts)]),
        np.concatenate([np.zeros(0, np.float32), *(part.cosines for part in parts)]),
    )
