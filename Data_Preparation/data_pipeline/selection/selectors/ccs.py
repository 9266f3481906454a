"""Coverage-centric selection: rows of every difficulty except the hardest.

Zheng et al., "Coverage-centric Coreset Selection for High Pruning Rates" (ICLR 2023), arXiv:2210.15809.
"""

from typing import Literal

import numpy as np
from pydantic import Field

from data_pipeline.errors import SelectionError
from data_pipeline.selection.features import Features
from data_pipeline.selection.ordering import Scores, ascending_order, ranks_within_groups
from data_pipeline.selection.ranking import Ranking
from data_pipeline.selection.selectors.by_score import ScoreConfig
from data_pipeline.types import IntArray


class CcsConfig(ScoreConfig):
    """Settings of `ccs`."""

    score: str
    """Column of the difficulty of a row."""
    hardest: Literal["highest", "lowest"] = "highest"
    """End of the scores that belongs to the hardest rows."""
    beta: float = Field(0.1, ge=0, lt=1)
    """Fraction of the rows that is dropped, the hardest: noise and wrong labels. Smaller budgets need a larger one."""
    strata: int = Field(50, ge=1)
    """Number of parts of equal width that the range of the remaining scores is divided into."""
    strict: bool = True
    """When the budget exceeds the remaining rows: raise an error, or let the dropped rows follow, easiest first."""


def ccs(features: Features, rows: int, rng: np.random.Generator, config: CcsConfig) -> Ranking:
    """Rank rows of all strata in turn, in random order within each.

    One row of each stratum that has any left, largest stratum first, then again: after any number of rows each stratum
    has contributed what the algorithm of the paper allots to it for that budget.

    Raises:
        SelectionError: The budget exceeds the remaining rows and `strict` is set; the score is missing, or a value is
            NaN or infinite.
    """
    scores = features.score(config.score)
    difficulty = scores if config.hardest == "highest" else -scores
    easiest_first = ascending_order(difficulty, rng)
    remaining, dropped = np.split(easiest_first, [len(features) - int(config.beta * len(features))])
    if config.strict and rows > len(remaining):
        raise SelectionError(
            f"budget of {rows} rows exceeds the remaining rows: {len(remaining)} of {len(features)} remain after the "
            f"hardest {config.beta:.0%} are dropped. Lower beta, ask for fewer rows, or set strict to false"
        )
    strata = _strata(scores[remaining], config.strata)
    ranks = ranks_within_groups(strata, rng.permutation(len(remaining)))
    sizes = np.bincount(strata)[strata]
    chosen = np.concatenate([remaining[np.lexsort((strata, -sizes, ranks))], dropped])[:rows]
    return Ranking(chosen, scores[chosen])


def _strata(scores: Scores, count: int) -> IntArray:
    """Part of the range that each score lies in, from 0; all parts have the same width."""
    if not len(scores) or np.ptp(scores) == 0:
        return np.zeros(len(scores), np.int64)
    parts = (scores - scores.min()) / np.ptp(scores) * count
    return np.minimum(parts.astype(np.int64), count - 1)
