"""Semantic deduplication: near duplicates come last.

Abbas et al., "SemDeDup: data-efficient learning at web-scale through semantic deduplication", 2023.
"""

import logging
from typing import Literal

import numpy as np
from pydantic import Field

from data_pipeline.selection.clusters import cluster
from data_pipeline.selection.features import Features
from data_pipeline.selection.ranking import Ranking
from data_pipeline.selection.semantic_duplicates import find_duplicates
from data_pipeline.selection.vectors import VectorSelectorConfig, open_vectors

log = logging.getLogger(__name__)


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
        retained[find_duplicates(vectors, order, config.threshold)[0]] = True
    count = int(retained.sum())
    if rows > count:
        log.warning(
            "%d of the %d selected rows are duplicates: only %d of %d rows have a cosine of at most %g to the rows "
            "retained before them. Ask for fewer rows, or raise the threshold",
            rows - count, rows, count, len(vectors), config.threshold,
        )  # fmt: skip
    order = rng.permutation(len(vectors))
    return Ranking(np.concatenate([order[retained[order]], order[~retained[order]]])[:rows])
