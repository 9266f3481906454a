"""Uniformly random rows: the baseline that every other selector has to beat."""

import numpy as np

from data_pipeline.selection.features import Features
from data_pipeline.selection.ranking import Ranking, SelectorConfig


class RandomConfig(SelectorConfig):
    """Settings of `random`: none."""


def random(features: Features, rows: int, rng: np.random.Generator, config: RandomConfig) -> Ranking:
    """Rank rows in random order."""
    return Ranking(rng.permutation(len(features))[:rows])
