"""Orders of rows by scores, groups and ranks, from which selectors build their rankings.

An order always has all rows, and a budget takes its first ones: a smaller budget is a prefix of a larger one.
"""

import numpy as np
from numpy.typing import NDArray

from data_pipeline.types import IntArray

Scores = NDArray[np.float64]


def ascending_order(keys: Scores, rng: np.random.Generator) -> IntArray:
    """All rows, lowest key first, equal keys in random order.

    Args:
        keys: Shape (N,), one number a row.
        rng: Decides between equal keys.

    Returns:
        Shape (N,), positions of the rows.
    """
    return np.lexsort((rng.permutation(len(keys)), keys))


def fractional_ranks(scores: Scores) -> Scores:
    """Rank of each score as a fraction of the rows, strictly between 0 and 1.

    Half of the rows have less than 0.5, whatever the distribution and its outliers. Equal scores share their mean rank.

    Args:
        scores: Shape (N,).

    Returns:
        Shape (N,).
    """
    _, which, counts = np.unique(scores, return_inverse=True, return_counts=True)
    middles = np.cumsum(counts) - counts / 2
    return middles[which] / len(scores)


def distance_to_band(scores: Scores, low: float, high: float) -> Scores:
    """Distance of each row's rank from a band between two quantiles, as a fraction of all rows; 0 inside the band.

    Args:
        scores: Shape (N,).
        low: Lower quantile, 0 to 1.
        high: Upper quantile, 0 to 1.

    Returns:
        Shape (N,).
    """
    ranks = fractional_ranks(scores)
    return np.maximum(np.maximum(low - ranks, ranks - high), 0)


def ranks_within_groups(groups: IntArray, order: IntArray) -> IntArray:
    """Rank of each row among the rows of its group, from 0, when rows come in a given order.

    Args:
        groups: Shape (N,), the group of each row, counted from 0.
        order: Shape (N,), all rows.

    Returns:
        Shape (N,).
    """
    by_group = order[np.argsort(groups[order], kind="stable")]
    sizes = np.bincount(groups)
    ranks = np.empty(len(groups), np.int64)
    ranks[by_group] = np.arange(len(groups)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return ranks
