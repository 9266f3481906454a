"""Rows that a head still gets wrong after its first epochs.

Paul et al., "Deep Learning on a Data Diet" (2021), arXiv:2107.07075. That a small share of the highest scores has to
go: Fayyaz et al., "BERT on a Data Diet" (2022), arXiv:2211.05610. The scores are made with the labels of all rows.
"""

import numpy as np

from data_pipeline.selection.features import Features
from data_pipeline.selection.rank_by_difficulty import ByDifficultyConfig, by_difficulty
from data_pipeline.selection.ranking import Ranking


class El2nConfig(ByDifficultyConfig):
    """Hard rows first, the very hardest last, unless told otherwise."""

    score: str = "el2n"
    """Column of the errors; see `measures.dynamics`."""


def el2n(features: Features, rows: int, rng: np.random.Generator, config: El2nConfig) -> Ranking:
    """Rows by the length of a head's error vector; see `by_difficulty`."""
    return by_difficulty(features, rows, rng, config)
