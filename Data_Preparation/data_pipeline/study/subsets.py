"""The subset of a study: selecting it, and finding it again by what it was asked for."""

import contextlib
import csv
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from data_pipeline.dataset import ELMDataset
from data_pipeline.errors import NotFound
from data_pipeline.metrics.registry import MEASURES
from data_pipeline.selection.features import Need
from data_pipeline.selection.registry import selector_config
from data_pipeline.selection.selecting import Selection
from data_pipeline.stages.measure import measure
from data_pipeline.stages.select import select_from
from data_pipeline.store import read_manifest
from data_pipeline.store.hashing import column_sha256
from data_pipeline.study.config import LABEL, StudyConfig
from data_pipeline.user_files import visible
from data_pipeline.utils import publish

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Subset:
    """Rows to train on, and how they were chosen."""

    name: str
    settings: Mapping[str, Any]
    """Selector, parameters, budget, seed, and what was seen; JSON values."""
    rows: int
    ids_sha256: str
    """Of the ids, in order."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """Its description, see `data_pipeline.selection.describe`."""
    label: str | None = None
    """What its selector is called in tables; None: name and parameters."""

    @property
    def method(self) -> str:
        """Selector and parameters for people; whether labels were seen."""
        if self.label is not None:
            return self.label
        parameters = ", ".join(f"{name}={value}" for name, value in sorted(self.settings["parameters"].items()))
        seen = " +labels" if "labels" in self.settings["sees"] else ""
        return self.settings["selector"] + (f"({parameters})" if parameters else "") + seen


def choose(config: StudyConfig, overwrite: bool = False) -> dict[str, Any]:
    """Select the subset, with the scores that its selector needs. Dev rows are not opened.

    Args:
        config: its sections selection, subset, measures and seed.
        overwrite: replace a subset or scores of the same name that were made from other data or settings.

    Returns:
        The subset's name, its file, its manifest in CSV if that was asked for, and its description.

    Raises:
        ConfigError, SelectionError, StoreError, ModelError, MissingExtra: it cannot be selected.
        StaleStage: a subset or score of that name was made from something else, and not `overwrite`.
    """
    with taking_turns(config):
        return _choose(config, overwrite)


@contextlib.contextmanager
def taking_turns(config: StudyConfig) -> Iterator[None]:
    """Wait until no other process of this study writes to the stores: a sweep selects several subsets at once."""
    config.data_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(config.data_dir / ".study.lock"):
        yield


def _choose(config: StudyConfig, overwrite: bool) -> dict[str, Any]:
    chosen = config.selection
    needs = selector_config(chosen.name, chosen.params).needs | (chosen.strata.needs if chosen.strata else frozenset())
    measure_needed(config, needs, overwrite)
    stored = select_from(
        config.main_job, chosen.name, config.subset.budget, seed=config.seed, parameters=chosen.params,
        strata=chosen.strata, label=LABEL, overwrite=overwrite,
    )  # fmt: skip
    found: dict[str, Any] = {
        "subset": stored.selection.subset,
        "file": str(stored.path),
        "looked_at": sorted(stored.selection.sees),
        "description": {name: value for name, value in stored.about.items() if name not in {"paragraphs", "corpus"}},
    }
    if config.subset.manifest:
        dataset = ELMDataset(load_embeddings=False, config=config.main_job)
        path = config.data_dir / "manifests" / f"{stored.selection.subset}.csv"
        write_csv(dataset, stored.selection.rows.tolist(), path)
        found["manifest"] = str(path)
    return found


def measure_needed(config: StudyConfig, needs: Iterable[Need], overwrite: bool = False) -> None:
    """Compute the scores among `needs`, with the config's parameters of their measures.

    A score whose measure the config does not speak of is kept however it was made, and else computed with defaults.

    Raises:
        ConfigError: a measure has no defaults, and the config does not speak of it.
        StaleStage: a score was computed with other parameters than the config's, and not `overwrite`.
    """
    columns = {need.removeprefix("score:") for need in needs if need.startswith("score:")}
    there = set(ELMDataset(load_embeddings=False, config=config.main_job).rows.names)
    for name, found in MEASURES.items():
        wanted = columns & set(found.columns)
        if wanted and (name in config.measures or not wanted <= there):
            measure(config.main_job, name, config.measures.get(name), label=LABEL, overwrite=overwrite)


def find_subset(config: StudyConfig) -> Subset:
    """The subset that `choose` made for these settings.

    Raises:
        StoreError: there is none.
    """
    wanted = _settings(config)
    for path in visible(config.main_job.selections_dir.glob("*/manifest.json"), config.main_job.selections_dir):
        listed = (read_manifest(path.parent) or {"splits": {}})["splits"].get("train")
        if listed is None:
            continue
        found = {name: value for name, value in listed["settings"].items() if name != "sees"}
        if found == wanted:
            about = {name: value for name, value in listed["about"].items() if name not in {"paragraphs", "corpus"}}
            return Subset(
                path.parent.name,
                listed["settings"],
                listed["rows"],
                listed["ids_sha256"],
                about,
                config.selection.label,
            )
    raise NotFound(
        f"{config.main_job.selections_dir} has no subset with {wanted}. Make it first: elm study select with the same "
        "settings"
    )


def subset_of(selection: Selection, about: Mapping[str, Any], label: str | None = None) -> Subset:
    """A selection that need not be on disk."""
    ids = column_sha256(selection.ids)
    return Subset(selection.subset, selection.settings, len(selection.ids), ids, about, label)


def write_csv(dataset: ELMDataset, rows: list[int], path: Path) -> None:
    """Rows for other programs: `id` (the row's number), `text_id`, `text`, `label`, every text in quotes.

    `dataset.subset(path)` reads it. Beware of pandas, which takes the text "null" for nothing unless it is told not to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    ids, labels = dataset.metadata["text_id"], dataset.metadata[LABEL]
    with temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        writer.writerow(["id", "text_id", "text", LABEL])
        for start in range(0, len(rows), 4096):
            some = rows[start : start + 4096]
            texts = dataset.get_batch(some)["text"]
            writer.writerows((row, ids[row], text, labels[row]) for row, text in zip(some, texts, strict=True))
    publish(temporary, path)


def _settings(config: StudyConfig) -> dict[str, Any]:
    """As they stand in a selection's manifest, but for what was seen, which nobody knows before it was selected."""
    chosen = config.selection
    none = Selection(
        chosen.name, selector_config(chosen.name, chosen.params), config.subset.budget, config.seed, chosen.strata,
        np.empty(0, np.int64), [], None, frozenset(),
    )  # fmt: skip
    return {name: value for name, value in none.settings.items() if name != "sees"}
