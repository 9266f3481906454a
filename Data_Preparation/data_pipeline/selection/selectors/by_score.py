"""Selectors that rank rows by one score, or by whether it passes a threshold: rankings, and a table of their uses.

A new one is a subclass of a config with the default column, whose docstring says what is selected, and a line in
`SCORE_SELECTORS`.
"""

from collections.abc import Mapping
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from data_pipeline.errors import SelectionError
from data_pipeline.selection.features import Features, Need
from data_pipeline.selection.ordering import Scores, ascending_order, distance_to_band
from data_pipeline.selection.ranking import Ranking, Selector, SelectorConfig, described
from data_pipeline.types import IntArray

# Rankings


class ScoreConfig(SelectorConfig):
    """Column of the scores."""

    score: str
    """Column of the scores."""

    @property
    def needs(self) -> frozenset[Need]:
        """The score column."""
        return frozenset({f"score:{self.score}"})


class RankByScoreConfig(ScoreConfig):
    """Score column, and which end of it comes first."""

    direction: Literal["highest", "lowest", "middle"] = "highest"
    """Scores that come first. middle: rows between `low` and `high` in random order, then the others, those nearest
    to the band first."""
    low: float = Field(0.2, ge=0, le=1)
    """Lower end of the band of `middle`, as a fraction of the rows."""
    high: float = Field(0.8, ge=0, le=1)
    """Upper end of the band of `middle`, as a fraction of the rows."""

    @model_validator(mode="after")
    def _is_ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        return self


def rank_by_score(features: Features, rows: int, rng: np.random.Generator, config: RankByScoreConfig) -> Ranking:
    """Rank rows by their score, equal scores in random order.

    Raises:
        SelectionError: The score is missing, or a value is NaN or infinite.
    """
    scores = features.score(config.score)
    if config.direction == "middle":
        keys = distance_to_band(scores, config.low, config.high)
    else:
        keys = -scores if config.direction == "highest" else scores
    chosen = ascending_order(keys, rng)[:rows]
    return Ranking(chosen, scores[chosen])


class RankByDifficultyConfig(RankByScoreConfig):
    """Score column whose high values are those of hard rows, and which end of it comes first."""

    drop_hardest: float = Field(0.1, ge=0, lt=1)
    """Fraction of the rows, those with the highest scores, that comes after all others, lowest score first."""


def rank_by_difficulty(
    features: Features, rows: int, rng: np.random.Generator, config: RankByDifficultyConfig
) -> Ranking:
    """Rank rows by their score, the very hardest last: those are mostly noise and wrong labels.

    Raises:
        SelectionError: The score is missing, or a value is NaN or infinite.
    """
    scores = features.score(config.score)
    easiest_first = ascending_order(scores, rng)
    others, hardest = np.split(easiest_first, [len(features) - int(config.drop_hardest * len(features))])
    ranked = others[rank_by_score(features.rows(others), len(others), rng, config).rows]
    chosen = np.concatenate([ranked, hardest])[:rows]
    return Ranking(chosen, scores[chosen])


PassingOrder = Literal["random", "score"]
"""Order of the rows that pass: random, or highest score first."""


def order_by_threshold(
    passes: NDArray[np.bool_], scores: Scores, order: PassingOrder, rng: np.random.Generator
) -> IntArray:
    """All rows: those that pass, then those that fail by descending score, then those whose score is NaN.

    Args:
        passes: Shape (N,), which rows pass.
        scores: Shape (N,).
        order: Order of the rows that pass.
        rng: Random order, and order of equal scores.

    Returns:
        Shape (N,), positions of the rows.
    """
    missing = np.isnan(scores)
    groups = np.where(missing, 2, np.where(passes, 0, 1))
    shuffled = missing | (passes & (order == "random"))
    return np.lexsort((rng.permutation(len(scores)), np.where(shuffled, 0, -scores), groups))


# Settings and uses


class PredictiveEntropyConfig(RankByScoreConfig):
    """Texts that a classifier is unsure of, or sure of.

    Lewis and Gale, "A Sequential Algorithm for Training Text Classifiers" (1994), arXiv:cmp-lg/9407020. A classifier
    that was trained on the same task has seen more labels than the budget allows: compare such a selection only with
    others that have, too.
    """

    score: str = "predictive_entropy"
    """Column of the entropies."""


class WordpieceRatioConfig(RankByScoreConfig):
    """Texts of rare words, which a tokenizer cuts into many pieces, or of common ones.

    The ratio is the fertility of Rust et al., "How Good is Your Tokenizer?" (2021), arXiv:2012.15613.
    """

    score: str = "wordpiece_ratio"
    """Column of the ratios."""


class TextMetricConfig(RankByScoreConfig):
    """Texts by a property of their own, such as readability.

    Flesch, "A new readability yardstick" (1948); McCarthy and Jarvis, "MTLD, vocd-D, and HD-D" (2010).
    """

    score: str = "flesch_reading_ease"
    """Column of the metric, one of those of the measure `text_metrics`."""


class ConsistencyConfig(RankByScoreConfig):
    """Texts whose predicted label survives small changes of their words; consistent texts first by default.

    The changes are those of Wei and Zou, "EDA: Easy Data Augmentation Techniques" (2019), arXiv:1901.11196.
    """

    score: str = "consistency"
    """Column with the fraction of changed copies that keep the predicted label."""


class El2nConfig(RankByDifficultyConfig):
    """Rows that a head still gets wrong after its first epochs, by the length of its error vector.

    Hard rows come first, the very hardest last by default.

    Paul et al., "Deep Learning on a Data Diet" (2021), arXiv:2107.07075. That a small fraction of the highest scores
    should be dropped: Fayyaz et al., "BERT on a Data Diet" (2022), arXiv:2211.05610. The scores are computed from the
    labels of all rows.
    """

    score: str = "el2n"
    """Column with the length of the error vector; see the measure `dynamics`."""


class GrandConfig(RankByDifficultyConfig):
    """Rows that would change a head most, by the length of the gradient of their loss.

    Large gradients come first, the very largest last by default.

    Paul et al., "Deep Learning on a Data Diet" (2021), arXiv:2107.07075. That a small fraction of the highest scores
    should be dropped: Fayyaz et al., "BERT on a Data Diet" (2022), arXiv:2211.05610. The scores are computed from the
    labels of all rows.
    """

    score: str = "grand"
    """Column with the length of the gradient; see the measure `dynamics`."""


class ForgettingConfig(RankByDifficultyConfig):
    """Rows that a head learns and forgets again; many have the same count, and come in random order.

    Often forgotten rows come first, those forgotten most last by default.

    Toneva et al., "An Empirical Study of Example Forgetting during Deep Neural Network Learning" (2019),
    arXiv:1812.05159. Rows that are never learnt have the highest scores, and do harm at small budgets (Zheng et al.,
    "Coverage-centric Coreset Selection for High Pruning Rates", 2023, arXiv:2210.15809). The scores are computed from
    the labels of all rows.
    """

    score: str = "forgetting"
    """Column with the number of forgetting events; see the measure `dynamics`."""


class CleanlabConfig(SelectorConfig):
    """Rows whose label is probably right; see the measure `confident`.

    Northcutt et al., "Confident Learning: Estimating Uncertainty in Dataset Labels" (2021), arXiv:1911.00068.
    """

    score: str = "label_quality"
    """Column with the probability of each row's own label."""
    issue: str = "label_issue"
    """Column that is 0 where the label is probably right."""
    order: PassingOrder = "random"
    """Order of the rows without an issue. By score the easiest come first, and a small budget is less varied."""

    @property
    def needs(self) -> frozenset[Need]:
        """Both columns."""
        return frozenset({f"score:{self.score}", f"score:{self.issue}"})


def rank_by_label_issue(features: Features, rows: int, rng: np.random.Generator, config: CleanlabConfig) -> Ranking:
    """Rank rows without a label issue first, then the others, best label first.

    Raises:
        SelectionError: A column is missing, or a value is NaN or infinite.
    """
    quality, issues = features.score(config.score), features.score(config.issue)
    chosen = order_by_threshold(issues == 0, quality, config.order, rng)[:rows]
    return Ranking(chosen, quality[chosen])


class SelfFilterConfig(ScoreConfig):
    """Rows that a small head finds good, trained on a judge's grades of a few of them; see the measure of that name.

    The method of quality classifiers for corpora such as FineWeb-Edu: Penedo et al., "The FineWeb Datasets" (2024),
    arXiv:2406.17557.
    """

    score: str = "self_filter"
    """Column with the probability that a row is good."""
    order: PassingOrder = "score"
    """score: all rows, highest score first. random: rows that pass in random order, then the others."""
    threshold: float = Field(0.5, allow_inf_nan=False)
    """Lowest score that passes, for the order `random`."""


def rank_by_threshold(features: Features, rows: int, rng: np.random.Generator, config: SelfFilterConfig) -> Ranking:
    """Rank rows that pass the threshold first, then the others, highest score first.

    Raises:
        SelectionError: The score is missing, or a value is NaN or infinite.
    """
    scores = features.score(config.score)
    chosen = order_by_threshold(scores >= config.threshold, scores, config.order, rng)[:rows]
    return Ranking(chosen, scores[chosen])


class LlmJudgeConfig(ScoreConfig):
    """Texts that a language model judges to be clear; see the measure of that name.

    Chen et al., "AlpaGasus: Training a Better Alpaca with Fewer Data" (2023), arXiv:2307.08701.
    """

    score: str = "llm_judge"
    """Column with the probability of YES; NaN where there is no answer."""
    threshold: float = Field(0.5, allow_inf_nan=False)
    """Lowest score that passes."""
    order: PassingOrder = "random"
    """Order of the rows that pass. The others follow, highest score first."""
    unjudged: Literal["error", "last"] = "error"
    """Rows without an answer: raise an error, or rank them last."""


def rank_by_answer(features: Features, rows: int, rng: np.random.Generator, config: LlmJudgeConfig) -> Ranking:
    """Rank rows that pass the threshold first, then the others, then those without an answer.

    Raises:
        SelectionError: The score is missing, or a row has no answer and `unjudged` is `error`.
    """
    scores = np.asarray(features.only(config.needs).scores[config.score], np.float64)
    unjudged = np.flatnonzero(np.isnan(scores))
    if len(unjudged) and config.unjudged == "error":
        raise SelectionError(
            f"{len(unjudged)} of {len(features)} rows have no answer in {config.score}, first row {unjudged[0]} "
            f"({features.ids[unjudged[0]]!r}). Run the judge again, or set unjudged to last"
        )
    chosen = order_by_threshold(scores >= config.threshold, scores, config.order, rng)[:rows]
    return Ranking(chosen, scores[chosen])


SCORE_SELECTORS: Mapping[str, Selector] = {
    "text_metric": described(rank_by_score, TextMetricConfig),
    "consistency": described(rank_by_score, ConsistencyConfig),
    "llm_judge": described(rank_by_answer, LlmJudgeConfig),
    "cleanlab": described(rank_by_label_issue, CleanlabConfig),
    "self_filter": described(rank_by_threshold, SelfFilterConfig),
    "predictive_entropy": described(rank_by_score, PredictiveEntropyConfig),
    "wordpiece_ratio": described(rank_by_score, WordpieceRatioConfig),
    "el2n": described(rank_by_difficulty, El2nConfig),
    "grand": described(rank_by_difficulty, GrandConfig),
    "forgetting": described(rank_by_difficulty, ForgettingConfig),
}
