"""Ranking rows by how hard they are, with the very hardest last: those are mostly noise and wrong labels."""

import numpy as np
from pydantic import Field

from data_pipeline.selection.features import Features
from data_pipeline.selection.rank_by_score import ByScoreConfig, by_score, in_order
from data_pipeline.selection.ranking import Ranking


class ByDifficultyConfig(ByScoreConfig):
    """Which scores come first; a high score is that of a hard row."""

    drop_hardest: float = Field(0.1, ge=0, lt=1)
    """Share of the rows, those with the highest scores, that comes after all others, the easiest of them first."""


def by_difficulty(features: Features, rows: int, rng: np.random.Generator, config: ByDifficultyConfig) -> Ranking:
    """Rows by their score, equal ones in random order, and then the hardest.

    Raises:
        SelectionError: there is no such score, or one is NaN or infinite.
    """
    scores = features.score(config.score)
    easiest_first = in_order(scores, rng)
    kept, dropped = np.split(easiest_first, [len(features) - int(config.drop_hardest * len(features))])
    ranked = kept[by_score(features.rows(kept), len(kept), rng, config).rows]
    chosen = np.concatenate([ranked, dropped])[:rows]
    return Ranking(chosen, scores[chosen])
