"""Texts of middling perplexity: neither trivial nor noise.

Marion et al., "When Less is More: Investigating Data Pruning for Pretraining LLMs at Scale" (2023), arXiv:2309.04564.
"""

from typing import Literal, Self

import numpy as np
from pydantic import Field, FiniteFloat, model_validator

from data_pipeline.errors import SelectionError
from data_pipeline.selection.features import Features, Need
from data_pipeline.selection.ordering import distance_to_band, fractional_ranks
from data_pipeline.selection.ranking import Ranking, SelectorConfig


class PerplexityConfig(SelectorConfig):
    """The band of perplexities, and the order within it."""

    score: str = "perplexity"
    """Column of the perplexities: perplexity or pseudo_perplexity."""
    p_low: float = Field(0.3, ge=0, le=1)
    """Lower end of the band, as a fraction of the rows."""
    p_high: float = Field(0.7, ge=0, le=1)
    """Upper end of the band, as a fraction of the rows."""
    rank_by: dict[str, FiniteFloat] = Field(default_factory=dict)
    """Weights of other columns, whose fractional ranks are added up; within the band the highest sum comes first.
    A negative weight puts low values first. Empty: random order."""
    outside: Literal["nearest", "error"] = "nearest"
    """When the budget exceeds the band: rows nearest to the band follow, or an error is raised."""

    @model_validator(mode="after")
    def _is_ordered(self) -> Self:
        if self.p_low >= self.p_high:
            raise ValueError(f"p_low ({self.p_low}) must be below p_high ({self.p_high})")
        return self

    @property
    def needs(self) -> frozenset[Need]:
        """The perplexities, and the columns of `rank_by`."""
        return frozenset(f"score:{column}" for column in (self.score, *self.rank_by))


def perplexity(features: Features, rows: int, rng: np.random.Generator, config: PerplexityConfig) -> Ranking:
    """Rank rows of a band of perplexities first.

    The band is one of ranks: perplexity and its logarithm give the same.

    Raises:
        SelectionError: The band has too few rows and `outside` is `error`; a column is missing, or a value is NaN or
            infinite.
    """
    scores = features.score(config.score)
    distances = distance_to_band(scores, config.p_low, config.p_high)
    inside = int(np.count_nonzero(distances == 0))
    if config.outside == "error" and rows > inside:
        raise SelectionError(
            f"budget of {rows} rows exceeds the band: {inside} of {len(features)} rows have a {config.score} between "
            f"the quantiles {config.p_low} and {config.p_high}. Widen the band, ask for fewer rows, or set outside to "
            "nearest"
        )
    weighted_ranks = np.zeros(len(features))
    for column, weight in config.rank_by.items():
        weighted_ranks += weight * fractional_ranks(features.score(column))
    chosen = np.lexsort((rng.permutation(len(features)), -weighted_ranks, distances))[:rows]
    return Ranking(chosen, scores[chosen])
