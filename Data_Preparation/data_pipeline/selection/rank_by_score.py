"""Ranking rows by one number each: the part that several selectors share.

Orders are always of all rows, and a budget takes the first ones, so that a smaller budget is a prefix of a larger one.
"""

from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from data_pipeline.selection.features import Features, Need
from data_pipeline.selection.ranking import Ranking, SelectorConfig
from data_pipeline.types import IntArray

Scores = NDArray[np.float64]


class ByScoreConfig(SelectorConfig):
    """Which scores come first."""

    score: str
    """Column of the scores."""
    direction: Literal["highest", "lowest", "middle"] = "highest"
    """middle: rows between `low` and `high` at random, then the others, nearest to those first."""
    low: float = Field(0.2, ge=0, le=1)
    """middle: share of the rows below it."""
    high: float = Field(0.8, ge=0, le=1)
    """middle: share of the rows up to its upper end."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        return self

    @property
    def needs(self) -> frozenset[Need]:
        """The scores."""
        return frozenset({f"score:{self.score}"})


def by_score(features: Features, rows: int, rng: np.random.Generator, config: ByScoreConfig) -> Ranking:
    """Rows by their score, equal ones in random order.

    Raises:
        SelectionError: there is no such score, or one is NaN or infinite.
    """
    scores = features.score(config.score)
    if config.direction == "middle":
        keys = distance_to_band(scores, config.low, config.high)
    else:
        keys = -scores if config.direction == "highest" else scores
    chosen = in_order(keys, rng)[:rows]
    return Ranking(chosen, scores[chosen])


def in_order(keys: Scores, rng: np.random.Generator) -> IntArray:
    """All rows, those with the lowest keys first, equal ones in random order."""
    return np.lexsort((rng.permutation(len(keys)), keys))


def rank_shares(scores: Scores) -> Scores:
    """Each row's place among the scores as a share of the rows, between 0 and 1 and never either of them.

    Half of the rows have less than 0.5, whatever the scores' distribution and outliers. Equal scores share their mean
    place.
    """
    _, which, counts = np.unique(scores, return_inverse=True, return_counts=True)
    middles = np.cumsum(counts) - counts / 2
    return middles[which] / len(scores)


def distance_to_band(scores: Scores, low: float, high: float) -> Scores:
    """How far each row is from those between two quantiles, as a share of all rows; 0 for a row between them."""
    shares = rank_shares(scores)
    return np.maximum(np.maximum(low - shares, shares - high), 0)


def places_in_groups(groups: IntArray, order: IntArray) -> IntArray:
    """Each row's place among the rows of its group, from 0, when rows come in an order.

    Args:
        groups: of every row, shape (N,), numbers from 0.
        order: all rows, shape (N,).
    """
    by_group = order[np.argsort(groups[order], kind="stable")]
    sizes = np.bincount(groups)
    places = np.empty(len(groups), np.int64)
    places[by_group] = np.arange(len(groups)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return places
