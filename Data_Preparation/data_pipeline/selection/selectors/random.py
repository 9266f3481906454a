"""Uniformly at random: what every other selector has to beat."""

import numpy as np

from data_pipeline.selection.features import Features
from data_pipeline.selection.ranking import Ranking, SelectorConfig


class RandomConfig(SelectorConfig):
    """It has no parameters."""


def random(features: Features, rows: int, rng: np.random.Generator, config: RandomConfig) -> Ranking:
    """Rows in random order."""
    return Ranking(rng.permutation(len(features))[:rows])
