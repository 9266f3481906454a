"""k-means: every cluster contributes its share of the rows."""

from typing import Literal

import numpy as np
from pydantic import Field

from data_pipeline.selection.clusters import cluster
from data_pipeline.selection.features import Features
from data_pipeline.selection.ranking import Ranking
from data_pipeline.selection.vectors import VectorSelectorConfig, open_vectors


class KMeansConfig(VectorSelectorConfig):
    """Settings of `kmeans`."""

    clusters: int = Field(128, ge=1)
    """Number of clusters; fewer when there are fewer rows."""
    order: Literal["random", "nearest", "farthest"] = "random"
    """Order within a cluster: random, or by distance to its centroid."""


def kmeans(features: Features, rows: int, rng: np.random.Generator, config: KMeansConfig) -> Ranking:
    """Rank rows of all clusters in turn, so that in every prefix each cluster has its share of all rows.

    The value of a row is the fraction of its cluster that comes before it, itself counted half; the smallest value
    comes first, equal values in random order.

    Raises:
        SelectionError: The embeddings are missing, or one is NaN or infinite.
    """
    vectors = open_vectors(features, config)
    clusters = cluster(vectors, config.clusters, rng)
    shares = np.empty(len(vectors))
    for members in clusters.members():
        order = rng.permutation(members) if config.order == "random" else clusters.by_distance(members, config.order)
        shares[order] = (np.arange(len(members)) + 0.5) / max(len(members), 1)
    chosen = np.lexsort((rng.random(len(vectors)), shares))[:rows]
    return Ranking(chosen, shares[chosen])
