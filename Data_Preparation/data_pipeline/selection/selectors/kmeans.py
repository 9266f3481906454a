"""k-means: every cluster gives its share."""

from typing import Literal

import numpy as np
from pydantic import Field

from data_pipeline.selection.clusters import Clusters, cluster
from data_pipeline.selection.features import Features
from data_pipeline.selection.ranking import Ranking
from data_pipeline.selection.vectors import VectorSelectorConfig, open_vectors
from data_pipeline.types import IntArray


class KMeansConfig(VectorSelectorConfig):
    """The clusters, and who comes first in one."""

    clusters: int = Field(128, ge=1)
    """How many; fewer where there are fewer rows."""
    order: Literal["random", "nearest", "farthest"] = "random"
    """Who comes first in a cluster: anyone, or the rows nearest to, or farthest from, its centroid."""


def kmeans(features: Features, rows: int, rng: np.random.Generator, config: KMeansConfig) -> Ranking:
    """Rows of all clusters in turn, so that every prefix has of each the share that it has of all rows.

    A row's value is the share of its cluster that comes before it, itself counted half; the smallest come first,
    equal ones in random order.

    Raises:
        SelectionError: there are no embeddings, or one is NaN or infinite.
    """
    vectors = open_vectors(features, config)
    found = cluster(vectors, config.clusters, rng)
    shares = np.empty(len(vectors))
    for members in found.members():
        shares[_ordered(members, found, rng, config)] = (np.arange(len(members)) + 0.5) / max(len(members), 1)
    picks = np.lexsort((rng.random(len(vectors)), shares))[:rows]
    return Ranking(picks, shares[picks])


def _ordered(members: IntArray, found: Clusters, rng: np.random.Generator, config: KMeansConfig) -> IntArray:
    if config.order == "random":
        return rng.permutation(members)
    sign = 1 if config.order == "nearest" else -1
    return members[np.argsort(sign * found.distances[members], kind="stable")]
