"""The selectors by name, and the two that are made of other selectors.

A new selector is a file in `selectors/`, a line in `SELECTORS`, and a test. Composite selectors look their parts up in
the table, and the table has them: that is why they are in one file.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Self

import numpy as np
from pydantic import Field, FiniteFloat, ValidationError, model_validator

from data_pipeline.config import Section, explain
from data_pipeline.errors import ConfigError, SelectionError
from data_pipeline.selection.features import Features, Need
from data_pipeline.selection.ordering import Scores, ascending_order
from data_pipeline.selection.ranking import Ranking, Selector, SelectorConfig, described, validate_ranking
from data_pipeline.selection.selectors.by_score import SCORE_SELECTORS
from data_pipeline.selection.selectors.ccs import CcsConfig, ccs
from data_pipeline.selection.selectors.dedup import DedupConfig, dedup
from data_pipeline.selection.selectors.facility_location import FacilityLocationConfig, facility_location
from data_pipeline.selection.selectors.full import FullConfig, full
from data_pipeline.selection.selectors.herding import HerdingConfig, herding
from data_pipeline.selection.selectors.kcenter import KCenterConfig, kcenter
from data_pipeline.selection.selectors.kmeans import KMeansConfig, kmeans
from data_pipeline.selection.selectors.length_matched_random import LengthMatchedRandomConfig, length_matched_random
from data_pipeline.selection.selectors.perplexity import PerplexityConfig, perplexity
from data_pipeline.selection.selectors.random import RandomConfig, random
from data_pipeline.selection.selectors.semantic_lexical import SemanticLexicalConfig, semantic_lexical
from data_pipeline.selection.selectors.stratified import StratifiedConfig, stratified
from data_pipeline.types import IntArray


def selector_config(name: str, parameters: Mapping[str, Any] | SelectorConfig | None = None) -> SelectorConfig:
    """The validated parameters of a selector.

    Args:
        name: Name of the selector, a key of `SELECTORS`.
        parameters: Values by name, or the config itself; None for the defaults.

    Raises:
        ConfigError: The selector or a parameter is unknown, or a value is out of range.
    """
    if name not in SELECTORS:
        raise ConfigError(f"unknown selector {name!r}; expected one of {', '.join(sorted(SELECTORS))}")
    model = SELECTORS[name].config
    if isinstance(parameters, SelectorConfig):
        if not isinstance(parameters, model):
            raise ConfigError(f"selector {name} takes a {model.__name__}, found a {type(parameters).__name__}")
        return parameters
    try:
        return model.model_validate(dict(parameters or {}))
    except ValidationError as error:
        raise ConfigError(f"parameters of {name}:\n{explain(error)}") from None


def rank_rows(name: str, features: Features, rows: int, rng: np.random.Generator, config: SelectorConfig) -> Ranking:
    """Rank rows with a selector that is shown only the features it needs.

    Args:
        name: Name of the selector, a key of `SELECTORS`.
        features: Features of N rows.
        rows: Number of rows to rank, at most N.
        rng: Source of everything random.
        config: Parameters of the selector.

    Raises:
        SelectionError: A feature is missing, or the ranking is not one of that many distinct rows.
    """
    ranking = SELECTORS[name].rank(features.only(config.needs), rows, rng, config)
    return validate_ranking(name, ranking, rows, len(features))


# Composite selectors


class PartConfig(Section):
    """A selector that is part of another."""

    selector: str
    """Name of the selector."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Parameters of the selector."""

    @model_validator(mode="after")
    def _is_valid(self) -> Self:
        _ = self.config
        return self

    @property
    def config(self) -> SelectorConfig:
        """The validated parameters."""
        return selector_config(self.selector, self.parameters)

    def rank(self, features: Features, rows: int, rng: np.random.Generator) -> IntArray:
        """The first `rows` rows of the part's ranking, best first."""
        return rank_rows(self.selector, features, rows, rng, self.config).rows


class StepConfig(PartConfig):
    """A selector that sees the rows that the steps before it left."""

    keep: float | None = Field(None, gt=0, le=1)
    """Fraction of all rows that the step leaves, rounded to the nearest, at least one row; null for the last step."""


class SequentialConfig(SelectorConfig):
    """Several selectors in sequence: each sees the rows that those before it left.

    Rows that are good, of these the diverse ones, of these the important ones: the three aims in Qin et al.,
    "Unleashing the Power of Data Tsunami" (2024), arXiv:2408.02085.
    """

    steps: tuple[StepConfig, ...] = Field(min_length=1)
    """Steps in order; the last one ranks the rows that the others left."""

    @model_validator(mode="after")
    def _is_descending(self) -> Self:
        *shares, last = [step.keep for step in self.steps]
        if last is not None or None in shares:
            raise ValueError("steps: every step but the last has a keep, and the last has none: the budget is its own")
        if any(after > before for before, after in pairwise(share for share in shares if share is not None)):
            raise ValueError(
                f"steps: keep is a fraction of all rows, and no step can leave more than it gets; found {shares}"
            )
        return self

    @property
    def needs(self) -> frozenset[Need]:
        """Features that any of the steps reads."""
        return frozenset[Need]().union(*(step.config.needs for step in self.steps))


def rank_sequentially(features: Features, rows: int, rng: np.random.Generator, config: SequentialConfig) -> Ranking:
    """Rank the rows that all steps but the last left, as the last step ranks them.

    Raises:
        SelectionError: The budget exceeds the rows that are left, or a step cannot rank the rows it gets.
    """
    remaining = np.arange(len(features))
    # A stream for each step: what one draws does not move the others.
    streams = rng.spawn(len(config.steps))
    for step, stream in zip(config.steps, streams, strict=True):
        count = rows if step.keep is None else max(1, int(step.keep * len(features) + 0.5))
        if count > len(remaining):
            raise SelectionError(
                f"budget of {rows} rows exceeds the remaining rows: the steps before {step.selector} leave "
                f"{len(remaining)} of {len(features)}. Raise their keep, or ask for fewer rows"
            )
        remaining = remaining[step.rank(features.rows(remaining), count, stream)]
    return Ranking(remaining)


class FusedConfig(PartConfig):
    """A selector whose ranks are added to those of others."""

    weight: FiniteFloat = Field(1.0, gt=0)
    """Weight of the ranks."""
    depth: float = Field(1.0, gt=0, le=1)
    """Fraction of the rows that the part ranks; all others share the mean of the ranks behind. For selectors that are
    slow for many rows, or refuse to rank all."""


class FusionConfig(SelectorConfig):
    """Several selectors whose ranks are added up.

    De Borda, "Mémoire sur les élections au scrutin" (1781), with weights.
    """

    parts: tuple[FusedConfig, ...] = Field(min_length=1)
    """Selectors, each of which ranks all rows."""

    @property
    def needs(self) -> frozenset[Need]:
        """Features that any of the parts reads."""
        return frozenset[Need]().union(*(part.config.needs for part in self.parts))


def rank_by_fusion(features: Features, rows: int, rng: np.random.Generator, config: FusionConfig) -> Ranking:
    """Rank rows by the weighted mean of their ranks, each as a fraction of the rows: 1 for the first, 0 for the last.

    Ranks, not scores: an outlier moves them no more than any other row. Equal means are in random order. Costs what the
    parts cost for all rows, or for their `depth`, whatever the budget.

    Raises:
        SelectionError: A part cannot rank that many rows.
    """
    *streams, own = rng.spawn(len(config.parts) + 1)
    total = np.zeros(len(features))
    for part, stream in zip(config.parts, streams, strict=True):
        total += part.weight * _rank_fractions(part, features, stream)
    total /= sum(part.weight for part in config.parts)
    chosen = ascending_order(-total, own)[:rows]
    return Ranking(chosen, total[chosen])


def _rank_fractions(part: FusedConfig, features: Features, rng: np.random.Generator) -> Scores:
    count = len(features)
    ranked = part.rank(features, max(1, int(part.depth * count + 0.5)), rng)
    ranks = np.full(count, (len(ranked) + count - 1) / 2)
    ranks[ranked] = np.arange(len(ranked))
    return 1 - ranks / max(1, count - 1)


SELECTORS: dict[str, Selector] = {
    # Baselines.
    "random": Selector(random, RandomConfig),
    "full": Selector(full, FullConfig),
    "length_matched_random": Selector(length_matched_random, LengthMatchedRandomConfig),
    # Diversity.
    "kcenter": Selector(kcenter, KCenterConfig),
    "kmeans": Selector(kmeans, KMeansConfig),
    "herding": Selector(herding, HerdingConfig),
    "facility_location": Selector(facility_location, FacilityLocationConfig),
    "semantic_lexical": Selector(semantic_lexical, SemanticLexicalConfig),
    "stratified": Selector(stratified, StratifiedConfig),
    "dedup": Selector(dedup, DedupConfig),
    # Quality and importance.
    "perplexity": Selector(perplexity, PerplexityConfig),
    **SCORE_SELECTORS,
    "ccs": Selector(ccs, CcsConfig),
    # Composites.
    "hybrid_sequential": described(rank_sequentially, SequentialConfig),
    "hybrid_fusion": described(rank_by_fusion, FusionConfig),
}
"""Selectors by name."""
