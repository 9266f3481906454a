"""Several selectors, their places added up.

De Borda, "Mémoire sur les élections au scrutin" (1781), with weights.
"""

import numpy as np
from pydantic import Field, FiniteFloat

from data_pipeline.selection.composite import PartConfig
from data_pipeline.selection.features import Features, Need
from data_pipeline.selection.rank_by_score import Scores, in_order
from data_pipeline.selection.ranking import Ranking, SelectorConfig


class FusedConfig(PartConfig):
    """A selector whose places count."""

    weight: FiniteFloat = Field(1.0, gt=0)
    """How much they count."""
    depth: float = Field(1.0, gt=0, le=1)
    """Share of the rows that it ranks; the others share the places behind. Selectors that take long for many rows, or
    refuse to rank all, can be asked for fewer."""


class FusionConfig(SelectorConfig):
    """The selectors."""

    parts: tuple[FusedConfig, ...] = Field(min_length=1)
    """Each ranks all rows for itself."""

    @property
    def needs(self) -> frozenset[Need]:
        """What any of the selectors does."""
        return frozenset[Need]().union(*(part.needs for part in self.parts))


def fusion(features: Features, rows: int, rng: np.random.Generator, config: FusionConfig) -> Ranking:
    """Rows by the weighted mean of their places, each a share of the rows: 1 for the first, 0 for the last.

    Places, and not scores: an outlier moves them no more than any other row. Equal sums are in random order. Costs what
    its selectors cost for all rows, or for their `depth`, whatever the budget.

    Raises:
        SelectionError: a selector cannot rank so many.
    """
    *streams, own = rng.spawn(len(config.parts) + 1)
    total = np.zeros(len(features))
    for part, stream in zip(config.parts, streams, strict=True):
        total += part.weight * _place_shares(part, features, stream)
    total /= sum(part.weight for part in config.parts)
    chosen = in_order(-total, own)[:rows]
    return Ranking(chosen, total[chosen])


def _place_shares(part: FusedConfig, features: Features, rng: np.random.Generator) -> Scores:
    count = len(features)
    ranked = part.rank(features, max(1, int(part.depth * count + 0.5)), rng)
    places = np.full(count, (len(ranked) + count - 1) / 2)
    places[ranked] = np.arange(len(ranked))
    return 1 - places / max(1, count - 1)
