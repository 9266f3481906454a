"""Semantic deduplication: copies in meaning come last.

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
from data_pipeline.selection.vectors import Vectors, VectorSelectorConfig, open_vectors
from data_pipeline.types import IntArray

log = logging.getLogger(__name__)

_BLOCK = 1024


class DedupConfig(VectorSelectorConfig):
    """What counts as a duplicate, and which one stays."""

    threshold: float = Field(0.95, ge=-1, le=1)
    """A row with a larger cosine than this to one that is kept is its duplicate."""
    keep: Literal["farthest", "nearest", "first"] = "farthest"
    """Which of several duplicates is kept: the one farthest from its cluster's centroid (the paper's), the one
    nearest to it, or the one of the lowest row."""
    cluster_rows: int = Field(1024, ge=1)
    """Rows a cluster has on average; duplicates are looked for within clusters alone."""


def dedup(features: Features, rows: int, rng: np.random.Generator, config: DedupConfig) -> Ranking:
    """The rows without duplicates in random order, then the duplicates, also in random order.

    Logs a warning where the budget reaches into the duplicates. A row of zeros is nobody's duplicate.

    Raises:
        SelectionError: there are no embeddings, or one is NaN or infinite.
    """
    vectors = open_vectors(features, config, unit=True)
    kept = np.zeros(len(vectors), bool)
    found = cluster(vectors, -(-len(vectors) // config.cluster_rows), rng)
    for members in found.members():
        kept[_without_duplicates(vectors, _ordered(members, found.distances, config), config.threshold)] = True
    count = int(kept.sum())
    if rows > count:
        log.warning(
            "%d of the %d rows selected are duplicates: only %d of all %d rows have a cosine of at most %g to those "
            "kept before; ask for fewer rows, or raise the threshold",
            rows - count, rows, count, len(vectors), config.threshold,
        )  # fmt: skip
    order = rng.permutation(len(vectors))
    return Ranking(np.concatenate([order[kept[order]], order[~kept[order]]])[:rows])


def _ordered(members: IntArray, distances: NDArray[np.float32], config: DedupConfig) -> IntArray:
    if config.keep == "first":
        return members
    sign = 1 if config.keep == "nearest" else -1
    return members[np.argsort(sign * distances[members], kind="stable")]


def _without_duplicates(vectors: Vectors, rows: IntArray, threshold: float) -> IntArray:
    """The rows, the first always, that are like no row kept before them."""
    kept = rows[:0]
    for start in range(0, len(rows), _BLOCK):
        some = rows[start : start + _BLOCK]
        block = vectors.rows(some)
        like_kept = torch.zeros(len(some), dtype=torch.bool, device=block.device)
        for first in range(0, len(kept), _BLOCK):
            like_kept |= (block @ vectors.rows(kept[first : first + _BLOCK]).T > threshold).any(dim=1)
        alike = torch.triu(block @ block.T > threshold, diagonal=1).cpu().numpy()
        kept = np.concatenate([kept, some[_kept_of(alike, like_kept.cpu().numpy())]])
    return kept


def _kept_of(alike: NDArray[np.bool_], dropped: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which rows of a block stay; `alike`: a row, and a later one; `dropped`: what is known not to stay."""
    for row in np.flatnonzero(alike.any(axis=1)):
        if not dropped[row]:
            dropped = dropped | alike[row]
    return ~dropped
