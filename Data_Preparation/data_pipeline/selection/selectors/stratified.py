"""Proportional sample of all kinds of texts.

Strata are the cells of a grid over attributes of the texts, sampled in proportion to their size (Neyman, "On the Two
Different Aspects of the Representative Method", 1934). Quotas are rounded by Sainte-Laguë's rule: with largest
remainders a larger budget can give a stratum fewer rows, so that no ranking could have all budgets as prefixes.
"""

import numpy as np
from pydantic import Field

from data_pipeline.selection.features import Features, Need
from data_pipeline.selection.ordering import Scores, ascending_order, fractional_ranks, ranks_within_groups
from data_pipeline.selection.ranking import Ranking, SelectorConfig
from data_pipeline.types import IntArray


class StratifiedConfig(SelectorConfig):
    """Settings of `stratified`: the grid."""

    columns: tuple[str, ...] = Field(("token_count", "flesch_reading_ease", "type_token_ratio"), min_length=1)
    """Score columns whose quantiles are the lines of the grid."""
    bins: int = Field(4, ge=1)
    """Number of parts of each column, of about as many rows each; equal scores are in the same part."""
    spread: str | None = None
    """Score column that the rows of a stratum are spread over evenly; null: random order."""

    @property
    def needs(self) -> frozenset[Need]:
        """The score columns."""
        spread = () if self.spread is None else (self.spread,)
        return frozenset(f"score:{column}" for column in (*self.columns, *spread))


def stratified(features: Features, rows: int, rng: np.random.Generator, config: StratifiedConfig) -> Ranking:
    """Rank rows of all strata, interleaved so that each has its share of every budget.

    Raises:
        SelectionError: A column is missing, or a value is NaN or infinite.
    """
    strata = _cells([features.score(column) for column in config.columns], config.bins)
    if config.spread is None:
        ranks = ranks_within_groups(strata, rng.permutation(len(features)))
    else:
        ranks = _evenly_spread(strata, ascending_order(features.score(config.spread), rng))
    sizes = np.bincount(strata)[strata]
    turns = (ranks + 0.5) / sizes
    chosen = np.lexsort((strata, -sizes, turns))[:rows]
    return Ranking(chosen, turns[chosen])


def _cells(columns: list[Scores], bins: int) -> IntArray:
    """Cell of the grid that each row is in, numbered from 0 without the empty cells."""
    parts = np.stack([(fractional_ranks(scores) * bins).astype(np.int64) for scores in columns], axis=1)
    return np.unique(parts, axis=0, return_inverse=True)[1].reshape(-1)


def _evenly_spread(strata: IntArray, order: IntArray) -> IntArray:
    """Ranks within the strata such that any number of first rows comes from all over the order.

    This is van der Corput's sequence: the binary digits of the position in the order, read backwards.
    """
    positions = ranks_within_groups(strata, order)
    reversed_digits = np.zeros_like(positions)
    for digit in range(int(positions.max(initial=0)).bit_length()):
        reversed_digits = reversed_digits * 2 + (positions >> digit & 1)
    return ranks_within_groups(strata, np.argsort(reversed_digits, kind="stable"))
