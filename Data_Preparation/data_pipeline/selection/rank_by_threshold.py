"""Ranking rows by whether they pass a test: the part that several selectors share."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data_pipeline.selection.rank_by_score import Scores
from data_pipeline.types import IntArray

Order = Literal["random", "score"]
"""Of the rows that pass: at random, or the highest score first."""


def screened(passes: NDArray[np.bool_], scores: Scores, order: Order, rng: np.random.Generator) -> IntArray:
    """All rows: those that pass, then the others, the highest score first; those whose score is NaN come last."""
    unknown = np.isnan(scores)
    groups = np.where(unknown, 2, np.where(passes, 0, 1))
    alike = unknown | (passes & (order == "random"))
    return np.lexsort((rng.permutation(len(scores)), np.where(alike, 0, -scores), groups))
