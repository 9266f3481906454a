"""Texts that a classifier is unsure of, or sure of.

Lewis and Gale, "A Sequential Algorithm for Training Text Classifiers" (1994), arXiv:cmp-lg/9407020. A classifier that
was trained on the same task has seen more labels than the budget allows: such a selection is compared to nothing but
others that have too.
"""

import numpy as np

from data_pipeline.selection.features import Features
from data_pipeline.selection.rank_by_score import ByScoreConfig, by_score
from data_pipeline.selection.ranking import Ranking


class PredictiveEntropyConfig(ByScoreConfig):
    """Which end of the uncertainty."""

    score: str = "predictive_entropy"
    """Column of the entropies."""


def predictive_entropy(
    features: Features, rows: int, rng: np.random.Generator, config: PredictiveEntropyConfig
) -> Ranking:
    """Rows by a classifier's entropy; see `by_score`."""
    return by_score(features, rows, rng, config)
