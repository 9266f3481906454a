"""Several selectors, one after the other: each sees what those before it left.

Rows that are good, of these the varied ones, of these the important ones: the three aims in Qin et al., "Unleashing the
Power of Data Tsunami" (2024), arXiv:2408.02085.
"""

from itertools import pairwise
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from data_pipeline.errors import SelectionError
from data_pipeline.selection.composite import PartConfig
from data_pipeline.selection.features import Features, Need
from data_pipeline.selection.ranking import Ranking, SelectorConfig


class StepConfig(PartConfig):
    """A selector that sees what those before it left."""

    keep: float | None = Field(None, gt=0, le=1)
    """Share of all rows that it leaves, rounded to the nearest, one at least; the last step has none."""


class SequentialConfig(SelectorConfig):
    """The steps."""

    steps: tuple[StepConfig, ...] = Field(min_length=1)
    """In order; the last one ranks what the others left."""

    @model_validator(mode="after")
    def _fewer_and_fewer(self) -> Self:
        *shares, last = [step.keep for step in self.steps]
        if last is not None or None in shares:
            raise ValueError("steps: every step but the last has a keep, and the last has none: the budget is its own")
        if any(after > before for before, after in pairwise(share for share in shares if share is not None)):
            raise ValueError(f"steps: keep is a share of all rows, and no step can leave more than it gets: {shares}")
        return self

    @property
    def needs(self) -> frozenset[Need]:
        """What any of the steps does."""
        return frozenset[Need]().union(*(step.needs for step in self.steps))


def sequential(features: Features, rows: int, rng: np.random.Generator, config: SequentialConfig) -> Ranking:
    """Rows as the last selector ranks those that the others left.

    Raises:
        SelectionError: fewer are left than are wanted, or a step cannot rank what it gets.
    """
    left = np.arange(len(features))
    # Each has a stream of its own: what one draws does not move the others.
    streams = rng.spawn(len(config.steps))
    for step, stream in zip(config.steps, streams, strict=True):
        wanted = rows if step.keep is None else max(1, int(step.keep * len(features) + 0.5))
        if wanted > len(left):
            raise SelectionError(
                f"{rows} rows are wanted, and the steps before {step.selector} leave {len(left)} of {len(features)}; "
                "raise their keep, or ask for fewer"
            )
        left = left[step.rank(features.rows(left), wanted, stream)]
    return Ranking(left)
