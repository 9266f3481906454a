"""Texts of rare words, which a tokenizer cuts into many pieces, or of common ones.

The ratio is the fertility of Rust et al., "How Good is Your Tokenizer?" (2021), arXiv:2012.15613.
"""

import numpy as np

from data_pipeline.selection.features import Features
from data_pipeline.selection.rank_by_score import ByScoreConfig, by_score
from data_pipeline.selection.ranking import Ranking


class WordpieceRatioConfig(ByScoreConfig):
    """Which end of the ratio."""

    score: str = "wordpiece_ratio"
    """Column of the ratios."""


def wordpiece_ratio(features: Features, rows: int, rng: np.random.Generator, config: WordpieceRatioConfig) -> Ranking:
    """Rows by their subword tokens per word; see `by_score`."""
    return by_score(features, rows, rng, config)
