"""Rows that a head learns and forgets again.

Toneva et al., "An Empirical Study of Example Forgetting during Deep Neural Network Learning" (2019), arXiv:1812.05159.
Rows that are never learnt have the highest scores; at small budgets they do harm (Zheng et al., "Coverage-centric
Coreset Selection for High Pruning Rates", 2023, arXiv:2210.15809). The scores are made with the labels of all rows.
"""

import numpy as np

from data_pipeline.selection.features import Features
from data_pipeline.selection.rank_by_difficulty import ByDifficultyConfig, by_difficulty
from data_pipeline.selection.ranking import Ranking


class ForgettingConfig(ByDifficultyConfig):
    """Much forgotten rows first, those forgotten most last, unless told otherwise."""

    score: str = "forgetting"
    """Column of the counts; see `measures.dynamics`."""


def forgetting(features: Features, rows: int, rng: np.random.Generator, config: ForgettingConfig) -> Ranking:
    """Rows by how often they are forgotten; many have the same count, and come in random order."""
    return by_difficulty(features, rows, rng, config)
