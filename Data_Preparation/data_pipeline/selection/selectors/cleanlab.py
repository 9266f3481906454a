"""Rows whose label is probably right.

Northcutt et al., "Confident Learning: Estimating Uncertainty in Dataset Labels" (2021), arXiv:1911.00068.
"""

import numpy as np

from data_pipeline.selection.features import Features, Need
from data_pipeline.selection.rank_by_threshold import Order, screened
from data_pipeline.selection.ranking import Ranking, SelectorConfig


class CleanlabConfig(SelectorConfig):
    """What is known of the labels; see `measures.confident`."""

    score: str = "label_quality"
    """Column with the probability of each row's own label."""
    issue: str = "label_issue"
    """Column that is 0 where the label is right, as far as can be told."""
    order: Order = "random"
    """Of the rows without an issue. By score, the easiest come first, and a small budget is less varied."""

    @property
    def needs(self) -> frozenset[Need]:
        """Both columns."""
        return frozenset({f"score:{self.score}", f"score:{self.issue}"})


def cleanlab(features: Features, rows: int, rng: np.random.Generator, config: CleanlabConfig) -> Ranking:
    """Rows without an issue, then those with one, the best labels first.

    Raises:
        SelectionError: a column is missing or has no number.
    """
    quality, issues = features.score(config.score), features.score(config.issue)
    chosen = screened(issues == 0, quality, config.order, rng)[:rows]
    return Ranking(chosen, quality[chosen])
