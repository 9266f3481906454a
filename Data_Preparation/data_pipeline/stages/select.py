"""Selection of a subset of a corpus, stored with its description in `data/selections/`."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.config import Config
from data_pipeline.errors import SelectionError
from data_pipeline.metrics.registry import MEASURES
from data_pipeline.selection.budget import Budget
from data_pipeline.selection.description import describe
from data_pipeline.selection.features import Features, Need
from data_pipeline.selection.listed import ListedIds, choose_listed
from data_pipeline.selection.ranking import SelectorConfig
from data_pipeline.selection.registry import selector_config
from data_pipeline.selection.selecting import (
    Selection,
    SelectionSettings,
    StrataConfig,
    select,
    selection_settings,
)
from data_pipeline.stages.base import Advance, Task, TaskResult, run_stage
from data_pipeline.stages.features import features_from_rows
from data_pipeline.stages.measure import compute_metric
from data_pipeline.store import fingerprint, write_selection
from data_pipeline.store.reader import Rows, open_rows
from data_pipeline.store.selections import read_splits_to_replace
from data_pipeline.types import Split
from data_pipeline.utils import exclusive, sha256_of_json
from data_pipeline.utils.displays import Displayed

logger = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class StoredSelection(Displayed):
    """Result of selecting a subset, and its path."""

    selection: Selection
    path: Path
    about: Mapping[str, Any]
    """Description of the selection; see `describe`."""

    def display_facts(self) -> list[tuple[str, str]]:
        """Return what a notebook shows."""
        numbers = {name: value for name, value in self.about.items() if isinstance(value, int | float)}
        rows = [("subset", self.selection.subset), ("file", str(self.path))]
        return [*rows, *((name, f"{value:,.4g}" if isinstance(value, float) else f"{value:,}")
                         for name, value in numbers.items())]  # fmt: skip


def select_subset(
    config: Config,
    name: str,
    budget: Budget,
    *,
    seed: int = 0,
    parameters: Mapping[str, Any] | SelectorConfig | None = None,
    strata: StrataConfig | None = None,
    split: Split = "train",
    label: str | None = None,
    against: Split | None = None,
    overwrite: bool = False,
) -> StoredSelection:
    """Select rows of a corpus, and store them as a subset that `ELMDataset(subset=...)` opens.

    Missing scores are computed with the defaults of their measures, if these have no required parameters.

    Args:
        config: configuration with the folders, the corpus and the variant.
        name: name of the selector; see `SELECTORS`.
        budget: size of the subset.
        seed: random seed.
        parameters: parameters of the selector.
        strata: groups that share the budget.
        split: split to select from.
        label: column with the class. The description reports how labels drift; only selectors that need it see it.
        against: held-out split, whose near duplicates the description counts. No selector sees it.
        overwrite: whether to replace a subset of the same name that was made from other data.

    Raises:
        ConfigError, SelectionError, StoreError, ModelError, MissingExtraError: the subset cannot be selected.
        StaleStageError: a subset of the same name was made from other data, and `overwrite` is false.
    """
    selector = selector_config(name, parameters)
    needs = selector.needs | (strata.needs if strata else frozenset())
    _measure_missing(config, split, needs, label)
    rows = open_rows(config, split, with_embeddings=_has_vectors(config, split))
    shown = {"token_counts"} | ({"labels"} if label else set())
    shown |= {"embeddings"} if rows.source.with_embeddings else set()
    features = features_from_rows(rows, needs | shown, label)
    settings = selection_settings(name, features, budget, seed=seed, parameters=selector, strata=strata)
    output = SubsetOutput(
        config.selections_dir / settings.subset, split, settings.settings, _upstream(rows, settings.sees), overwrite
    )
    held_out = None if against is None else open_rows(config, against, scores=[])
    return run_stage(SubsetSelection(rows, features, held_out, settings, output), overwrite=overwrite)


def select_listed(
    config: Config,
    listed: ListedIds,
    *,
    split: Split = "train",
    label: str | None = None,
    against: Split | None = None,
    overwrite: bool = False,
) -> StoredSelection:
    """Store the rows of a list, in its order, as a subset that `ELMDataset(subset=...)` opens.

    Args:
        config: configuration with the folders, the corpus and the variant.
        listed: ids of the rows.
        split: split of all of them.
        label: see `select_subset`.
        against: see `select_subset`.
        overwrite: whether to replace a subset of the same name that was made from other data.

    Raises:
        SelectionError: an id is repeated, of another split, or of no row.
        StoreError: files are missing or damaged.
        StaleStageError: a subset of the same name was made from other data, and `overwrite` is false.
    """
    rows = open_rows(config, split, with_embeddings=_has_vectors(config, split))
    shown = {"token_counts"} | ({"labels"} if label else set())
    shown |= {"embeddings"} if rows.source.with_embeddings else set()
    features = features_from_rows(rows, shown, label)
    others = {
        other: open_rows(config, other, with_embeddings=False, scores=[]).table(["text_id"])["text_id"].to_pylist()
        for other in rows.source.store.splits
        if other != split
    }
    selection = choose_listed(listed, features.ids, split, others)
    output = SubsetOutput(
        config.selections_dir / selection.subset, split, selection.settings, _upstream(rows, selection.sees), overwrite
    )
    held_out = None if against is None else open_rows(config, against, scores=[])
    return run_stage(SubsetSelection(rows, features, held_out, selection, output), overwrite=overwrite)


select_from = select_subset
"""Former name of `select_subset`."""


@dataclass(frozen=True)
class SubsetOutput:
    """One split of a subset on disk."""

    folder: Path
    split: Split
    settings: Mapping[str, Any]
    upstream: str
    overwrite: bool

    def is_finished(self, overwrite: bool) -> bool:
        """Return False, since no manifest records what a selection was compared with for its description.

        Raises:
            StaleStageError: the subset was made from other data, and `overwrite` is false.
        """
        read_splits_to_replace(self.folder, self.split, self.settings, self.upstream, overwrite)
        return False

    def write(self, selection: Selection, about: Mapping[str, Any]) -> Path:
        """Write the rows and their description; returns the path of the file."""
        with exclusive(self.folder.parent):
            return write_selection(
                self.folder, self.split, selection.ids, selection.values, self.settings, self.upstream, about,
                self.overwrite,
            )  # fmt: skip


@dataclass(frozen=True)
class SubsetSelection:
    """Stage that selects the rows of a subset; one task, since a selector compares all rows."""

    source: Rows
    features: Features
    held_out: Rows | None
    """Rows whose near duplicates the description counts."""
    settings: SelectionSettings
    """How rows are selected; or the rows themselves, if a list names them."""
    output: SubsetOutput

    rows = 0
    unit = "row"
    """Selectors report no progress."""

    @property
    def name(self) -> str:
        """Name of the subset."""
        return self.settings.subset

    @property
    def outputs(self) -> list[SubsetOutput]:
        """Outputs of the stage."""
        return [self.output]

    def fingerprint(self) -> str:
        """Compute the fingerprint of the settings and of the features that the selector reads."""
        return fingerprint(self.output.settings, self.output.upstream)

    def tasks(self) -> list[Task]:
        """Return the only task."""
        return [Task(self.name)]

    def run(self, task: Task, advance: Advance = lambda rows: None) -> TaskResult:
        """Select the rows, and describe them."""
        del advance
        chosen, source = self.settings, self.source.source
        selection = (
            chosen
            if isinstance(chosen, Selection)
            else select(
                chosen.name,
                self.features,
                chosen.budget,
                seed=chosen.seed,
                parameters=chosen.config,
                strata=chosen.strata,
            )
        )
        others = None if self.held_out is None else features_from_rows(self.held_out, {"embeddings"})
        about = {"corpus": source.corpus, "paragraphs": source.fingerprint()}
        about |= describe(self.features, selection.rows, others=others, seed=chosen.seed)
        return TaskResult(task.name, len(selection.rows), facts={"selection": selection, "about": about})

    def finish(self, results: Sequence[TaskResult]) -> StoredSelection:
        """Write the subset and its manifest."""
        selection, about = results[0].facts["selection"], results[0].facts["about"]
        return StoredSelection(selection, self.output.write(selection, about), about)


def _has_vectors(config: Config, split: Split) -> bool:
    return any(config.embeddings_dir.glob(f"{split}_embeddings*.safetensors"))


def _upstream(rows: Rows, sees: frozenset[Need]) -> str:
    """Compute the fingerprint of the features that the selector reads."""
    inputs: dict[str, Any] = {"paragraphs": rows.source.fingerprint()}
    if "embeddings" in sees:
        inputs["embeddings"] = dict(rows.first_shard.metadata)
    columns = {need.removeprefix("score:") for need in sees if need.startswith("score:")}
    for scores in rows.source.scores:
        if columns & set(scores.columns):
            inputs[scores.name] = scores.listed["fingerprint"]
    return sha256_of_json(inputs)


def _measure_missing(config: Config, split: Split, needs: frozenset[Need], label: str | None) -> None:
    existing = set(open_rows(config, split, with_embeddings=False).names)
    missing = sorted(need.removeprefix("score:") for need in needs if need.startswith("score:"))
    missing = [column for column in missing if column not in existing]
    for name in dict.fromkeys(_measure_of(column) for column in missing):
        logger.info("Computing %s of %s, which does not exist yet", name, split)
        compute_metric(config, name, splits=[split], label=label)


def _measure_of(column: str) -> str:
    name = next((name for name, measure in MEASURES.items() if column in measure.columns), None)
    if name is None:
        raise SelectionError(
            f"no column {column!r}, and no measure of that name. Scores come from: elm annotate (heads), "
            f"elm measure ({', '.join(sorted(MEASURES))})"
        )
    fields = MEASURES[name].config.model_fields
    if wanted := [field for field, info in fields.items() if info.is_required()]:
        given = " ".join(f"{field}=..." for field in wanted)
        raise SelectionError(f"no column {column!r} yet. Make it with: elm measure {name} --set {given}")
    return name
