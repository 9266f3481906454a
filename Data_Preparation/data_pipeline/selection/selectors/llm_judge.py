"""Rows that a language model finds clear.

Chen et al., "AlpaGasus: Training a Better Alpaca with Fewer Data" (2023), arXiv:2307.08701.
"""

from typing import Literal

import numpy as np
from pydantic import Field

from data_pipeline.errors import SelectionError
from data_pipeline.selection.features import Features, Need
from data_pipeline.selection.rank_by_score import Scores
from data_pipeline.selection.rank_by_threshold import Order, screened
from data_pipeline.selection.ranking import Ranking, SelectorConfig


class LlmJudgeConfig(SelectorConfig):
    """Settings of the selector `llm_judge`; see `measures.judged`."""

    score: str = "llm_judge"
    """Column with the probability of a YES; NaN where there is no answer."""
    threshold: float = Field(0.5, allow_inf_nan=False)
    """Rows with this or more pass."""
    order: Order = "random"
    """Of the rows that pass. The others follow, the highest score first."""
    unjudged: Literal["error", "last"] = "error"
    """Rows without an answer: an error, or the last in the ranking."""

    @property
    def needs(self) -> frozenset[Need]:
        """The answers."""
        return frozenset({f"score:{self.score}"})


def llm_judge(features: Features, rows: int, rng: np.random.Generator, config: LlmJudgeConfig) -> Ranking:
    """Rows that pass, then the others, then those without an answer.

    Raises:
        SelectionError: the column is missing, or not all rows have an answer and `unjudged` is `error`.
    """
    scores = _answers(features, config)
    chosen = screened(scores >= config.threshold, scores, config.order, rng)[:rows]
    return Ranking(chosen, scores[chosen])


def _answers(features: Features, config: LlmJudgeConfig) -> Scores:
    scores = np.asarray(features.only(config.needs).scores[config.score], np.float64)
    unjudged = np.flatnonzero(np.isnan(scores))
    if len(unjudged) and config.unjudged == "error":
        raise SelectionError(
            f"{len(unjudged)} of {len(features)} rows have no answer in {config.score}, row {unjudged[0]} "
            f"({features.ids[unjudged[0]]!r}) for one; ask the judge again, or set unjudged to last"
        )
    return scores
