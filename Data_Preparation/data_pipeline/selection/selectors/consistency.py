"""Texts whose predicted label survives small changes of their words.

The changes are those of Wei and Zou, "EDA: Easy Data Augmentation Techniques" (2019), arXiv:1901.11196.
"""

import numpy as np

from data_pipeline.selection.features import Features
from data_pipeline.selection.rank_by_score import ByScoreConfig, by_score
from data_pipeline.selection.ranking import Ranking


class ConsistencyConfig(ByScoreConfig):
    """Steady texts first, unless told otherwise."""

    score: str = "consistency"
    """Column with the share of changed copies that keep the label."""


def consistency(features: Features, rows: int, rng: np.random.Generator, config: ConsistencyConfig) -> Ranking:
    """Rows by the share of their copies that keep the label; many have the same, and come in random order."""
    return by_score(features, rows, rng, config)
