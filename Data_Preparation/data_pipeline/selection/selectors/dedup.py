"""Semantic deduplication: near duplicates come last.

Abbas et al., "SemDeDup: data-efficient learning at web-scale through semantic deduplication", 2023.
"""

import logging
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from data_pipeline.selection.clusters import cluster
from data_pipeline.selection.features import Features
from data_pipeline.selection.ranking import Ranking
from data_pipeline.selection.vectors import VectorBlocks, VectorSelectorConfig, open_vectors
from data_pipeline.types import IntArray

log = logging.getLogger(__name__)

_BLOCK = 1024


class DedupConfig(VectorSelectorConfig):
    """Settings of `dedup`."""

    threshold: float = Field(0.95, ge=-1, le=1)
    """Cosine above which a row is a duplicate of a retained row."""
    keep: Literal["farthest", "nearest", "first"] = "farthest"
    """Which of several duplicates is retained: the one farthest from the centroid of its cluster (as in the paper), the
    one nearest to it, or the one in the lowest row."""
    cluster_rows: int = Field(1024, ge=1)
    """Mean number of rows in a cluster; duplicates are searched for within clusters only."""


def dedup(features: Features, rows: int, rng: np.random.Generator, config: DedupConfig) -> Ranking:
    """Rank the retained rows in random order, then the duplicates, also in random order.

    Logs a warning when the budget includes duplicates. A row of zeros is never a duplicate.

    Raises:
        SelectionError: The embeddings are missing, or one is NaN or infinite.
    """
    vectors = open_vectors(features, config, unit=True)
    retained = np.zeros(len(vectors), bool)
    clusters = cluster(vectors, -(-len(vectors) // config.cluster_rows), rng)
    for members in clusters.members():
        order = members if config.keep == "first" else clusters.by_distance(members, config.keep)
        retained[_drop_duplicates(vectors, order, config.threshold)] = True
    count = int(retained.sum())
    if rows > count:
        log.warning(
            "%d of the %d selected rows are duplicates: only %d of %d rows have a cosine of at most %g to the rows "
            "retained before them. Ask for fewer rows, or raise the threshold",
            rows - count, rows, count, len(vectors), config.threshold,
        )  # fmt: skip
    order = rng.permutation(len(vectors))
    return Ranking(np.concatenate([order[retained[order]], order[~retained[order]]])[:rows])


def _drop_duplicates(vectors: VectorBlocks, rows: IntArray, threshold: float) -> IntArray:
    """Rows that are no duplicate of a row retained before them; the first row always is one."""
    retained = rows[:0]
    for start in range(0, len(rows), _BLOCK):
        block_rows = rows[start : start + _BLOCK]
        block = vectors.rows(block_rows)
        duplicates = torch.zeros(len(block_rows), dtype=torch.bool, device=block.device)
        for first in range(0, len(retained), _BLOCK):
            duplicates |= (block @ vectors.rows(retained[first : first + _BLOCK]).T > threshold).any(dim=1)
        similar = torch.triu(block @ block.T > threshold, diagonal=1).cpu().numpy()
        retained = np.concatenate([retained, block_rows[~_duplicates_in_block(similar, duplicates.cpu().numpy())]])
    return retained


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
