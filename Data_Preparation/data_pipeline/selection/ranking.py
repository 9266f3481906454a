"""What a selector gives, and what it looks like."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.config import Section
from data_pipeline.errors import SelectionError
from data_pipeline.selection.features import Features, Need
from data_pipeline.types import IntArray


class SelectorConfig(Section):
    """The parameters of a selector."""

    @property
    def needs(self) -> frozenset[Need]:
        """Features that it looks at; it is shown no others."""
        return frozenset()


@dataclass(frozen=True)
class Ranking:
    """Distinct rows, the most wanted first: every smaller budget is a prefix."""

    rows: IntArray
    """Shape (K,), positions among the features' rows."""
    values: NDArray[np.float64] | None = None
    """Shape (K,): the number that each was chosen by, such as its distance at that moment."""


@dataclass(frozen=True)
class Selector:
    """An entry of the registry."""

    rank: Callable[[Features, int, np.random.Generator, Any], Ranking]
    """(features, rows wanted, rng, config) -> exactly so many rows; never more are wanted than there are. Fewer wanted
    with the same seed: a prefix of them."""
    config: type[SelectorConfig]

    @property
    def help(self) -> str:
        """What it is, in a line, and its source: the top of its file."""
        return (sys.modules[self.rank.__module__].__doc__ or "").strip()


def checked(name: str, found: Ranking, rows: int, total: int) -> Ranking:
    """A selector's ranking, if it is what it has to be.

    Raises:
        SelectionError: it is not of so many distinct rows out of `total`.
    """
    chosen = np.asarray(found.rows, np.int64)
    inside = np.unique(chosen[(chosen >= 0) & (chosen < total)])
    if len(chosen) != rows or len(inside) != rows:
        raise SelectionError(
            f"the selector {name} gave {len(chosen):,} rows, {len(inside):,} of them distinct, where {rows:,} of "
            f"{total:,} were asked for; this is a fault of the selector, not of the data"
        )
    return replace(found, rows=chosen)
