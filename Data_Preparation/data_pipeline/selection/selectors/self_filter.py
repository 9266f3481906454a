"""Rows that a small head finds good, after what a judge said of a few of them.

The way of the quality classifiers that corpora are filtered by, such as FineWeb-Edu's: Penedo et al., "The FineWeb
Datasets" (2024), arXiv:2406.17557.
"""

import numpy as np
from pydantic import Field

from data_pipeline.selection.features import Features, Need
from data_pipeline.selection.rank_by_threshold import Order, screened
from data_pipeline.selection.ranking import Ranking, SelectorConfig


class SelfFilterConfig(SelectorConfig):
    """What passes; see `measures.self_filter`."""

    score: str = "self_filter"
    """Column with the probability that a row is good."""
    order: Order = "score"
    """Of all rows: the highest score first, or those that pass at random and then the others."""
    threshold: float = Field(0.5, allow_inf_nan=False)
    """With the order random: rows with this or more pass."""

    @property
    def needs(self) -> frozenset[Need]:
        """The scores."""
        return frozenset({f"score:{self.score}"})


def self_filter(features: Features, rows: int, rng: np.random.Generator, config: SelfFilterConfig) -> Ranking:
    """Rows by their score, or by whether it is high enough.

    Raises:
        SelectionError: there is no such score, or one is NaN or infinite.
    """
    scores = features.score(config.score)
    chosen = screened(scores >= config.threshold, scores, config.order, rng)[:rows]
    return Ranking(chosen, scores[chosen])
