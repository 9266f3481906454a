"""Rows by name of a selector, budget and seed; alike for all selectors, and checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from data_pipeline.config import Section, explain
from data_pipeline.errors import ConfigError, SelectionError
from data_pipeline.selection.budget import Budget, interleaved, quotas, within_tokens
from data_pipeline.selection.features import Features, Need
from data_pipeline.selection.ranking import Ranking, SelectorConfig, checked
from data_pipeline.selection.registry import SELECTORS
from data_pipeline.types import IntArray
from data_pipeline.utils import sha256_of_json


class StrataConfig(Section):
    """Groups of rows that share the budget; each is ranked for itself."""

    by: str
    """`labels`, or the name of a score column."""
    bins: int = Field(5, ge=1)
    """Of a score column: groups of about as many rows each, by quantiles."""
    shares: Literal["proportional", "equal"] = "proportional"
    """Of the budget: as the groups are large, or alike."""

    @property
    def needs(self) -> frozenset[Need]:
        """Features that it looks at."""
        return frozenset({"labels" if self.by == "labels" else f"score:{self.by}"})


@dataclass(frozen=True)
class Selection:
    """What was selected, and how."""

    name: str
    """Of the selector."""
    config: SelectorConfig
    budget: Budget
    seed: int
    strata: StrataConfig | None
    rows: IntArray
    """Positions among the features' rows, the most wanted first."""
    ids: list[str]
    values: NDArray[np.float64] | None
    """What each was chosen by, where the selector tells it."""
    sees: frozenset[Need]
    """Features that were looked at, of all rows and not only of those selected."""

    @property
    def subset(self) -> str:
        """Its name: selector, budget and seed; `-labels` where labels were seen; a hash where parameters were set."""
        seen = "-labels" if "labels" in self.sees else ""
        chosen = self.settings["parameters"]
        tail = f"_{sha256_of_json(chosen)[:8]}" if chosen else ""
        return f"{self.name}{seen}_{self.budget.label}_seed{self.seed}{tail}"

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides which rows, beside the features themselves; JSON values."""
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


def configured(name: str, parameters: Mapping[str, Any] | SelectorConfig | None = None) -> SelectorConfig:
    """The parameters of a selector, checked.

    Raises:
        ConfigError: there is no such selector or parameter, or a value cannot be.
    """
    if name not in SELECTORS:
        raise ConfigError(f"there is no selector {name!r}; there are {', '.join(sorted(SELECTORS))}")
    model = SELECTORS[name].config
    if isinstance(parameters, SelectorConfig):
        if not isinstance(parameters, model):
            raise ConfigError(f"{name} takes a {model.__name__}, found a {type(parameters).__name__}")
        return parameters
    try:
        return model.model_validate(dict(parameters or {}))
    except ValidationError as error:
        raise ConfigError(f"parameters of {name}:\n{explain(error)}") from None


def select(
    name: str,
    features: Features,
    budget: Budget,
    *,
    seed: int = 0,
    parameters: Mapping[str, Any] | SelectorConfig | None = None,
    strata: StrataConfig | None = None,
) -> Selection:
    """Select rows. The same features, parameters and seed give the same ranking, of which a smaller budget is a prefix.

    With strata every group has its quota of this budget by largest remainders, and they take turns, so that a prefix
    has about its share of each.

    Args:
        name: of the selector, see `SELECTORS`.
        features: only what selector, budget and strata need is looked at.
        budget: how much.
        seed: of everything random.
        parameters: of the selector.
        strata: groups that share the budget.

    Raises:
        ConfigError: there is no such selector or parameter.
        SelectionError: the budget cannot be met, or a feature is missing or broken.
    """
    config = configured(name, parameters)
    needs = config.needs | (strata.needs if strata else set()) | ({"token_counts"} if budget.tokens else set())
    shown = features.only(needs)

    def rank(rows: int) -> Ranking:
        return _stratified(name, shown, rows, seed, config, strata) if strata else _ranked(
            name, shown.only(config.needs), rows, np.random.default_rng(seed), config
        )  # fmt: skip

    if budget.tokens is not None:
        counts = shown.need_token_counts()
        if not len(counts):
            raise SelectionError("there are no rows to select from")
        rows = within_tokens(lambda wanted: rank(wanted).rows, counts, budget.tokens)
    else:
        rows = budget.rows_of(len(shown))
    found = rank(rows)
    ids = [features.ids[row] for row in found.rows.tolist()]
    used = config.needs | (strata.needs if strata else frozenset())
    seen = used.union(*(features.seen.get(need, ()) for need in used))
    return Selection(name, config, budget, seed, strata, found.rows, ids, found.values, seen)


def _ranked(name: str, features: Features, rows: int, rng: np.random.Generator, config: SelectorConfig) -> Ranking:
    return checked(name, SELECTORS[name].rank(features, rows, rng, config), rows, len(features))


def _stratified(
    name: str, features: Features, rows: int, seed: int, config: SelectorConfig, strata: StrataConfig
) -> Ranking:
    groups = _groups(features, strata)
    counts = quotas([len(group) for group in groups], rows, strata.shares)
    # Each group has a stream of its own: what one draws does not move the others.
    streams = np.random.default_rng(seed).spawn(len(groups))
    parts, shown = [], features.only(config.needs)
    for group, count, rng in zip(groups, counts, streams, strict=True):
        if count:
            part = _ranked(name, shown.rows(group), count, rng, config)
            parts.append((group[part.rows], part.values))
    turns = interleaved(counts)
    order = np.argsort(turns, kind="stable")
    chosen, values = np.empty(rows, np.int64), np.full(rows, np.nan)
    chosen[order] = np.concatenate([part for part, _ in parts])
    if any(told is None for _, told in parts):
        return Ranking(chosen)
    values[order] = np.concatenate([told for _, told in parts if told is not None])
    return Ranking(chosen, values)


def _groups(features: Features, strata: StrataConfig) -> list[IntArray]:
    """Rows of each group, none of them empty."""
    if strata.by == "labels":
        members = features.need_labels()
    else:
        # By rank, so that equal values do not make one group swallow the others.
        places = np.argsort(np.argsort(features.score(strata.by), kind="stable"), kind="stable")
        members = places * strata.bins // max(1, len(places))
    return [np.flatnonzero(members == value).astype(np.int64) for value in np.unique(members)]
