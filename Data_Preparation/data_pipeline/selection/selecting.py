"""Selection of rows by name of a selector, budget, seed and strata."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from data_pipeline.config import Section
from data_pipeline.errors import SelectionError
from data_pipeline.selection.budget import Budget, interleaved, quotas, rows_within_tokens
from data_pipeline.selection.features import Features, Need
from data_pipeline.selection.ranking import Ranking, SelectorConfig
from data_pipeline.selection.registry import rank_rows, selector_config
from data_pipeline.types import IntArray
from data_pipeline.utils import sha256_of_json


class StrataConfig(Section):
    """Groups of rows that share the budget; each group is ranked on its own."""

    by: str
    """`labels`, or the name of a score column."""
    bins: int = Field(5, ge=1)
    """Number of groups of a score column, of about as many rows each, divided at quantiles."""
    shares: Literal["proportional", "equal"] = "proportional"
    """Shares of the groups in the budget: proportional to their sizes, or equal."""

    @property
    def needs(self) -> frozenset[Need]:
        """Features that the groups are made from."""
        return frozenset({"labels" if self.by == "labels" else f"score:{self.by}"})


@dataclass(frozen=True)
class SelectionSettings:
    """How rows are selected, before any is."""

    name: str
    """Name of the selector."""
    config: SelectorConfig
    """Parameters of the selector."""
    budget: Budget
    """Budget that was asked for."""
    seed: int
    """Seed of everything random."""
    strata: StrataConfig | None
    """Groups that share the budget."""
    sees: frozenset[Need]
    """Features that are read, of all rows and not only of the selected ones."""

    @property
    def subset(self) -> str:
        """Name of the subset: selector, budget and seed; `-labels` if labels were read; a hash of set parameters."""
        suffix = "-labels" if "labels" in self.sees else ""
        parameters = self.settings["parameters"]
        digest = f"_{sha256_of_json(parameters)[:8]}" if parameters else ""
        return f"{self.name}{suffix}_{self.budget.label}_seed{self.seed}{digest}"

    @property
    def settings(self) -> dict[str, Any]:
        """Everything besides the features that decides which rows are selected, as JSON values."""
        parameters = self.config.deciding(exclude_defaults=True)
        if self.strata is not None:
            parameters["strata"] = self.strata.model_dump(mode="json")
        return {
            "selector": self.name,
            "parameters": parameters,
            "budget": self.budget.label,
            "seed": self.seed,
            "sees": sorted(self.sees),
        }


@dataclass(frozen=True)
class Selection(SelectionSettings):
    """Rows that were selected, and how."""

    rows: IntArray
    """Shape (K,), positions among the rows of the features, best first."""
    ids: list[str]
    """Ids of the rows, in the same order."""
    values: NDArray[np.float64] | None
    """Shape (K,), the number each row was chosen by, where the selector gives one."""


def selection_settings(
    name: str,
    features: Features,
    budget: Budget,
    *,
    seed: int = 0,
    parameters: Mapping[str, Any] | SelectorConfig | None = None,
    strata: StrataConfig | None = None,
) -> SelectionSettings:
    """Return the settings of a selection without selecting; see `select`.

    Raises:
        ConfigError: The selector or a parameter is unknown, or a value is out of range.
    """
    config = selector_config(name, parameters)
    used = _used(config, strata)
    sees = used.union(*(features.seen.get(need, ()) for need in used))
    return SelectionSettings(name, config, budget, seed, strata, sees)


def select(
    name: str,
    features: Features,
    budget: Budget,
    *,
    seed: int = 0,
    parameters: Mapping[str, Any] | SelectorConfig | None = None,
    strata: StrataConfig | None = None,
) -> Selection:
    """Select rows. The same features, parameters and seed give the same ranking; a smaller budget is a prefix of it.

    With strata, each group gets its quota of this budget by largest remainders, and the groups are interleaved so that
    any prefix has about the share of each.

    Args:
        name: Name of the selector, a key of `SELECTORS`.
        features: Features of N rows; only those that selector, budget and strata need are read.
        budget: Size of the subset.
        seed: Seed of everything random.
        parameters: Parameters of the selector.
        strata: Groups that share the budget.

    Raises:
        ConfigError: The selector or a parameter is unknown, or a value is out of range.
        SelectionError: The budget cannot be met, or a feature is missing, NaN or infinite.
    """
    settings = selection_settings(name, features, budget, seed=seed, parameters=parameters, strata=strata)
    config = settings.config
    visible = features.only(_used(config, strata) | ({"token_counts"} if budget.tokens else set[Need]()))

    def rank(rows: int) -> Ranking:
        if strata is None:
            return rank_rows(name, visible, rows, np.random.default_rng(seed), config)
        return _rank_strata(name, visible, rows, seed, config, strata)

    if budget.tokens is not None:
        counts = visible.need_token_counts()
        if not len(counts):
            raise SelectionError("no rows to select from")
        rows = rows_within_tokens(lambda count: rank(count).rows, counts, budget.tokens)
    else:
        rows = budget.rows_of(len(visible))
    ranking = rank(rows)
    ids = [features.ids[row] for row in ranking.rows.tolist()]
    return Selection(**vars(settings), rows=ranking.rows, ids=ids, values=ranking.values)


def _used(config: SelectorConfig, strata: StrataConfig | None) -> frozenset[Need]:
    return config.needs | (strata.needs if strata else frozenset())


def _rank_strata(
    name: str, features: Features, rows: int, seed: int, config: SelectorConfig, strata: StrataConfig
) -> Ranking:
    groups = _groups(features, strata)
    counts = quotas([len(group) for group in groups], rows, strata.shares)
    # A stream for each group: what one draws does not move the others.
    streams = np.random.default_rng(seed).spawn(len(groups))
    visible = features.only(config.needs)
    parts: list[tuple[IntArray, NDArray[np.float64] | None]] = []
    for group, count, rng in zip(groups, counts, streams, strict=True):
        if count:
            part = rank_rows(name, visible.rows(group), count, rng, config)
            parts.append((group[part.rows], part.values))
    order = np.argsort(interleaved(counts), kind="stable")
    chosen, values = np.empty(rows, np.int64), np.full(rows, np.nan)
    chosen[order] = np.concatenate([part for part, _ in parts])
    part_values = [values for _, values in parts if values is not None]
    if len(part_values) < len(parts):
        return Ranking(chosen)
    values[order] = np.concatenate(part_values)
    return Ranking(chosen, values)


def _groups(features: Features, strata: StrataConfig) -> list[IntArray]:
    """Rows of each group; no group is empty."""
    if strata.by == "labels":
        members = features.need_labels()
    else:
        # By rank, so that equal values do not make one group swallow the others.
        ranks = np.argsort(np.argsort(features.score(strata.by), kind="stable"), kind="stable")
        members = ranks * strata.bins // max(1, len(ranks))
    return [np.flatnonzero(members == value).astype(np.int64) for value in np.unique(members)]
