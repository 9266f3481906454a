"""Texts of middling perplexity: neither trivial nor noise.

Marion et al., "When Less is More: Investigating Data Pruning for Pretraining LLMs at Scale" (2023), arXiv:2309.04564.
"""

from typing import Literal, Self

import numpy as np
from pydantic import Field, FiniteFloat, model_validator

from data_pipeline.errors import SelectionError
from data_pipeline.selection.features import Features, Need
from data_pipeline.selection.rank_by_score import distance_to_band, rank_shares
from data_pipeline.selection.ranking import Ranking, SelectorConfig


class PerplexityConfig(SelectorConfig):
    """The band, and what decides within it."""

    score: str = "perplexity"
    """Column of the perplexities: perplexity, or pseudo_perplexity."""
    p_low: float = Field(0.3, ge=0, le=1)
    """Share of the rows below the band."""
    p_high: float = Field(0.7, ge=0, le=1)
    """Share of the rows up to the band's upper end."""
    rank_by: dict[str, FiniteFloat] = Field(default_factory=dict)
    """Weights of other columns, whose ranks, as shares of the rows, are added up; within the band the highest sum
    comes first. Negative: little of it comes first. None: random order."""
    outside: Literal["nearest", "error"] = "nearest"
    """When more rows are wanted than the band has: the ones nearest to it follow, or that is an error."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.p_low >= self.p_high:
            raise ValueError(f"p_low ({self.p_low}) must be below p_high ({self.p_high})")
        return self

    @property
    def needs(self) -> frozenset[Need]:
        """The perplexities, and the columns of `rank_by`."""
        return frozenset(f"score:{column}" for column in (self.score, *self.rank_by))


def perplexity(features: Features, rows: int, rng: np.random.Generator, config: PerplexityConfig) -> Ranking:
    """Rows of a band of perplexities first.

    The band is one of ranks: perplexity and its logarithm give the same.

    Raises:
        SelectionError: the band has too few rows and `outside` is `error`; a column is missing or has no number.
    """
    scores = features.score(config.score)
    distances = distance_to_band(scores, config.p_low, config.p_high)
    within = int(np.count_nonzero(distances == 0))
    if config.outside == "error" and rows > within:
        raise SelectionError(
            f"{rows} rows are wanted, and {within} of {len(features)} have a {config.score} between the quantiles "
            f"{config.p_low} and {config.p_high}; widen the band, ask for fewer, or set outside to nearest"
        )
    wanted = np.zeros(len(features))
    for column, weight in config.rank_by.items():
        wanted += weight * rank_shares(features.score(column))
    chosen = np.lexsort((rng.permutation(len(features)), -wanted, distances))[:rows]
    return Ranking(chosen, scores[chosen])
