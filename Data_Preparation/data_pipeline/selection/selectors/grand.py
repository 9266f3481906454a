"""Rows that would change a head the most.

Paul et al., "Deep Learning on a Data Diet" (2021), arXiv:2107.07075. That a small share of the highest scores has to
go: Fayyaz et al., "BERT on a Data Diet" (2022), arXiv:2211.05610. The scores are made with the labels of all rows.
"""

import numpy as np

from data_pipeline.selection.features import Features
from data_pipeline.selection.rank_by_difficulty import ByDifficultyConfig, by_difficulty
from data_pipeline.selection.ranking import Ranking


class GrandConfig(ByDifficultyConfig):
    """Large gradients first, the very largest last, unless told otherwise."""

    score: str = "grand"
    """Column of the gradients' lengths; see `measures.dynamics`."""


def grand(features: Features, rows: int, rng: np.random.Generator, config: GrandConfig) -> Ranking:
    """Rows by the length of their loss's gradient; see `by_difficulty`."""
    return by_difficulty(features, rows, rng, config)
