"""The interface of a selector: its parameters, its ranking, and its entry in the table."""

import inspect
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
    """Parameters of a selector."""

    @property
    def needs(self) -> frozenset[Need]:
        """Features that the selector reads; it is shown no others."""
        return frozenset()


@dataclass(frozen=True)
class Ranking:
    """Distinct rows, best first: every smaller budget is a prefix."""

    rows: IntArray
    """Shape (K,), positions among the rows of the features."""
    values: NDArray[np.float64] | None = None
    """Shape (K,), the number that each row was chosen by, such as its distance at that moment."""


Rank = Callable[[Features, int, np.random.Generator, Any], Ranking]
"""(features, number of rows, rng, config) -> exactly that many rows, at most as many as there are. A smaller number
with the same seed gives a prefix."""


@dataclass(frozen=True)
class Selector:
    """Entry of the table of selectors."""

    rank: Rank
    """Function that ranks rows."""
    config: type[SelectorConfig]
    """Model of the parameters."""
    about: str = ""
    """What is selected, and the source; empty: the docstring of the module that defines `rank`. See `described`."""

    @property
    def help(self) -> str:
        """What is selected in a line, and the source."""
        return (self.about or sys.modules[self.rank.__module__].__doc__ or "").strip()


def described(rank: Rank, config: type[SelectorConfig]) -> Selector:
    """The entry of a selector whose model of parameters says, in its docstring, what is selected."""
    return Selector(rank, config, inspect.getdoc(config) or "")


def validate_ranking(name: str, ranking: Ranking, rows: int, total: int) -> Ranking:
    """The ranking, with int64 rows, after checking that it has the number of rows that was asked for.

    Args:
        name: Name of the selector, for the message.
        ranking: Ranking that the selector returned.
        rows: Number of rows that was asked for.
        total: Number of rows there are.

    Raises:
        SelectionError: The ranking has another number of distinct rows, or a row out of range.
    """
    chosen = np.asarray(ranking.rows, np.int64)
    distinct = np.unique(chosen[(chosen >= 0) & (chosen < total)])
    if len(chosen) != rows or len(distinct) != rows:
        raise SelectionError(
            f"selector {name} returned {len(chosen):,} rows, {len(distinct):,} of them distinct and in range; "
            f"expected {rows:,} of {total:,}. This is a bug in the selector, not a fault of the data"
        )
    return replace(ranking, rows=chosen)
