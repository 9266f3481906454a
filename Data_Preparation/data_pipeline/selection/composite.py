"""Selectors that other selectors are made of."""

from typing import Any, Self

import numpy as np
from pydantic import Field, model_validator

from data_pipeline.config import Section
from data_pipeline.selection.features import Features, Need
from data_pipeline.selection.ranking import SelectorConfig, checked
from data_pipeline.types import IntArray


class PartConfig(Section):
    """One of the selectors."""

    selector: str
    """Its name."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """As it takes them alone."""

    @model_validator(mode="after")
    def _is_right(self) -> Self:
        _ = self.config
        return self

    @property
    def config(self) -> SelectorConfig:
        """Its parameters, checked."""
        # Not at the top: the registry, which it looks into, has this module.
        from data_pipeline.selection.selecting import configured

        return configured(self.selector, self.parameters)

    @property
    def needs(self) -> frozenset[Need]:
        """Features that it looks at."""
        return self.config.needs

    def rank(self, features: Features, rows: int, rng: np.random.Generator) -> IntArray:
        """So many rows, the most wanted first; it is shown what it needs."""
        from data_pipeline.selection.registry import SELECTORS

        config = self.config
        found = SELECTORS[self.selector].rank(features.only(config.needs), rows, rng, config)
        return checked(self.selector, found, rows, len(features)).rows
