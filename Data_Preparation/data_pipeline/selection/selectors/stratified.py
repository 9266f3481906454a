"""A small copy of the whole: every kind of text in its share.

Strata are the cells of a grid over the texts' attributes, sampled in proportion (Neyman, "On the Two Different Aspects
of the Representative Method", 1934). Shares are rounded by Sainte-Laguë's rule: with largest remainders, a larger
budget can give a stratum less, and no ranking has all of them as prefixes.
"""

import numpy as np
from pydantic import Field

from data_pipeline.selection.features import Features, Need
from data_pipeline.selection.rank_by_score import Scores, in_order, places_in_groups, rank_shares
from data_pipeline.selection.ranking import Ranking, SelectorConfig
from data_pipeline.types import IntArray


class StratifiedConfig(SelectorConfig):
    """The grid."""

    columns: tuple[str, ...] = Field(("token_count", "flesch_reading_ease", "type_token_ratio"), min_length=1)
    """Scores whose quantiles are the grid's lines."""
    bins: int = Field(4, ge=1)
    """Parts of each column, of about as many rows each; equal scores are in the same part."""
    spread: str | None = None
    """Score that rows of a stratum are spread over evenly; none: they come at random."""

    @property
    def needs(self) -> frozenset[Need]:
        """The columns."""
        spread = () if self.spread is None else (self.spread,)
        return frozenset(f"score:{column}" for column in (*self.columns, *spread))


def stratified(features: Features, rows: int, rng: np.random.Generator, config: StratifiedConfig) -> Ranking:
    """Rows of all strata, interleaved so that each has its share of every budget.

    Raises:
        SelectionError: a column is missing or has no number.
    """
    strata = _cells([features.score(column) for column in config.columns], config.bins)
    if config.spread is None:
        places = places_in_groups(strata, rng.permutation(len(features)))
    else:
        places = _evenly_spread(strata, in_order(features.score(config.spread), rng))
    sizes = np.bincount(strata)[strata]
    turns = (places + 0.5) / sizes
    chosen = np.lexsort((strata, -sizes, turns))[:rows]
    return Ranking(chosen, turns[chosen])


def _cells(columns: list[Scores], bins: int) -> IntArray:
    """The cell of the grid that each row is in; cells without rows have no number."""
    parts = np.stack([(rank_shares(scores) * bins).astype(np.int64) for scores in columns], axis=1)
    return np.unique(parts, axis=0, return_inverse=True)[1].reshape(-1)


def _evenly_spread(strata: IntArray, order: IntArray) -> IntArray:
    """Places within the strata such that the first ones, however many, are from all over the order.

    That is van der Corput's sequence: the binary digits of the place in the order, read backwards.
    """
    places = places_in_groups(strata, order)
    reversed_digits = np.zeros_like(places)
    for digit in range(int(places.max(initial=0)).bit_length()):
        reversed_digits = reversed_digits * 2 + (places >> digit & 1)
    return places_in_groups(strata, np.argsort(reversed_digits, kind="stable"))
