"""By a property of the text itself, such as its readability.

Flesch, "A new readability yardstick" (1948); McCarthy and Jarvis, "MTLD, vocd-D, and HD-D" (2010).
"""

import numpy as np

from data_pipeline.selection.features import Features
from data_pipeline.selection.rank_by_score import ByScoreConfig, by_score
from data_pipeline.selection.ranking import Ranking


class TextMetricConfig(ByScoreConfig):
    """Which property, and which end of it."""

    score: str = "flesch_reading_ease"
    """Column of the metric; see `measures.text_metrics`."""


def text_metric(features: Features, rows: int, rng: np.random.Generator, config: TextMetricConfig) -> Ranking:
    """Rows by a text metric; see `by_score`."""
    return by_score(features, rows, rng, config)
