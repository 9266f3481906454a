"""The rows as they come: the whole set, or its first ones."""

import numpy as np

from data_pipeline.selection.features import Features
from data_pipeline.selection.ranking import Ranking, SelectorConfig


class FullConfig(SelectorConfig):
    """It has no parameters."""


def full(features: Features, rows: int, rng: np.random.Generator, config: FullConfig) -> Ranking:
    """The first rows, in order."""
    return Ranking(np.arange(rows))
