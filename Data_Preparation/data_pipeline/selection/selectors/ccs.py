"""Coverage-centric selection: rows of every difficulty, but for the hardest.

Zheng et al., "Coverage-centric Coreset Selection for High Pruning Rates" (ICLR 2023), arXiv:2210.15809.
"""

from typing import Literal

import numpy as np
from pydantic import Field

from data_pipeline.errors import SelectionError
from data_pipeline.selection.features import Features, Need
from data_pipeline.selection.rank_by_score import Scores, in_order, places_in_groups
from data_pipeline.selection.ranking import Ranking, SelectorConfig
from data_pipeline.types import IntArray


class CcsConfig(SelectorConfig):
    """The strata."""

    score: str
    """Column that says how hard a row is."""
    hardest: Literal["highest", "lowest"] = "highest"
    """Which scores are of the hardest rows."""
    beta: float = Field(0.1, ge=0, lt=1)
    """Share of the rows that is dropped, the hardest: noise and wrong labels. The smaller the budget, the more."""
    strata: int = Field(50, ge=1)
    """Equal parts of the remaining scores' range."""
    strict: bool = True
    """When more rows are wanted than are kept, that is an error; else the dropped ones follow, the easiest first."""

    @property
    def needs(self) -> frozenset[Need]:
        """The scores."""
        return frozenset({f"score:{self.score}"})


def ccs(features: Features, rows: int, rng: np.random.Generator, config: CcsConfig) -> Ranking:
    """Rows of all strata in turn, at random within each.

    One row of each stratum that has any left, the largest stratum first, then again: after any number of rows each
    stratum has given what the paper's algorithm allots it for that budget.

    Raises:
        SelectionError: more rows are wanted than are kept, and `strict`; or the scores are missing or no numbers.
    """
    scores = features.score(config.score)
    difficulty = scores if config.hardest == "highest" else -scores
    easiest_first = in_order(difficulty, rng)
    kept, dropped = np.split(easiest_first, [len(features) - int(config.beta * len(features))])
    if config.strict and rows > len(kept):
        raise SelectionError(
            f"{rows} rows are wanted, and {len(kept)} of {len(features)} are left when the hardest {config.beta:.0%} "
            "are dropped; lower beta, ask for fewer, or set strict to false"
        )
    strata = _strata(scores[kept], config.strata)
    places = places_in_groups(strata, rng.permutation(len(kept)))
    sizes = np.bincount(strata)[strata]
    chosen = np.concatenate([kept[np.lexsort((strata, -sizes, places))], dropped])[:rows]
    return Ranking(chosen, scores[chosen])


def _strata(scores: Scores, count: int) -> IntArray:
    """The part of the range that each score is in, from 0; the parts are equally wide."""
    if not len(scores) or np.ptp(scores) == 0:
        return np.zeros(len(scores), np.int64)
    parts = (scores - scores.min()) / np.ptp(scores) * count
    return np.minimum(parts.astype(np.int64), count - 1)
